import torch

from keyload.manifest.errors import ManifestError

SAFETENSORS_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.int32: "I32", torch.uint32: "U32", torch.int64: "I64", torch.uint64: "U64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}
_MODEL_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def safetensors_name(tensor, key):
    """Of a tensor's dtype. `key` is for the error."""
    if tensor.dtype not in SAFETENSORS_NAMES:
        raise ManifestError(f"{key}: {tensor.dtype} is no dtype of safetensors")
    return SAFETENSORS_NAMES[tensor.dtype]


def model_dtype(name, config):
    """The dtype that the model is built with: `name` if given, else the configuration's, else F32."""
    if name is not None:
        if name not in _MODEL_DTYPES:
            raise ManifestError(f"--dtype {name} is not one of {', '.join(_MODEL_DTYPES)}")
        return _MODEL_DTYPES[name]
    dtype = config.dtype
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ManifestError(f"the configuration's dtype {config.dtype!r} is no floating dtype of torch")
    return dtype
