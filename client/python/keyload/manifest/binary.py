"""The binary form of a manifest: protobuf's wire format, written by hand, so that no generated code is needed."""

import struct

_VARINT, _BYTES, _FLOAT = 0, 2, 5
TENSOR_KINDS = {"KIND_PARAMETER": 1, "KIND_BUFFER": 2, "KIND_NON_PERSISTENT_BUFFER": 3}
OPERATION_KINDS = {"KIND_STACK": 1, "KIND_CONCATENATE": 2, "KIND_CHUNK": 3, "KIND_TRANSPOSE": 4, "KIND_PERMUTE": 5}


def _varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number, data):
    if isinstance(data, str):
        data = data.encode()
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _text(number, value):
    return _field(number, value) if value else b""


def _texts(number, values):
    return b"".join(_field(number, value) for value in values)


def _enum(number, value):
    return _varint(number << 3 | _VARINT) + _varint(value)


def _packed(number, values):
    return _field(number, b"".join(map(_varint, values))) if values else b""


def _tensor(tensor):
    return (_field(1, tensor["name"]) + _enum(2, TENSOR_KINDS[tensor["kind"]]) + _field(3, tensor["dtype"]) +
            _packed(4, tensor["shape"]))


def _operation(operation):
    return _enum(1, OPERATION_KINDS[operation["kind"]]) + _packed(2, operation["dims"])


def _conversion(conversion):
    return (_texts(1, conversion["sources"]) + _texts(2, conversion["targets"]) +
            b"".join(_field(3, _operation(operation)) for operation in conversion["operations"]))


def encode(manifest):
    """`manifest`, as `make_manifest` returns it, as the bytes of a keyload.v1.ModelManifest."""
    parts = [_text(1, manifest["architecture"]), _text(2, manifest["baseModelPrefix"])]
    parts += [_field(3, _text(1, module["name"]) + _text(2, module["className"])) for module in manifest["modules"]]
    parts += [_field(4, _tensor(tensor)) for tensor in manifest["tensors"]]
    parts += [_field(5, _text(1, group["source"]) + _texts(2, group["targets"])) for group in manifest["tiedGroups"]]
    parts += [_texts(6, manifest["noSplitModules"]), _texts(7, manifest["keepInFp32"])]
    parts += [_texts(8, manifest["ignoreMissing"]), _texts(9, manifest["ignoreUnexpected"])]
    parts += [_field(10, _text(1, rename["pattern"]) + _text(2, rename["replacement"]))
              for rename in manifest["renames"]]
    parts += [_field(11, _conversion(conversion)) for conversion in manifest["conversions"]]
    if manifest["initializerRange"]:
        parts.append(_varint(12 << 3 | _FLOAT) + struct.pack("<f", manifest["initializerRange"]))
    return b"".join(parts)
