"""Reads all tensors of a model from a daemon and compares them with the reference.

keyload_verify.py ADDRESS MODEL CHECKSUMS.json [--some]: with --some, the resident keys only.
"""

import argparse
import importlib
import json
import pathlib
import sys
import tempfile

import grpc
import grpc_tools
import xxhash
from grpc_tools import protoc

KEYS_A_REQUEST = 20_000  # a request must stay below the server's 4 MiB
SOURCE_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _contract(directory: str):
    """The contract's Python messages and stubs, generated into `directory`, which is not needed afterwards."""
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    code = protoc.main(["", f"-I{SOURCE_ROOT / 'proto'}", f"-I{well_known}", f"--python_out={directory}",
                        f"--grpc_python_out={directory}", "keyload/v1/model_loader.proto"])
    if code != 0:
        raise RuntimeError("protoc failed")
    sys.path.insert(0, directory)
    return (importlib.import_module("keyload.v1.model_loader_pb2"),
            importlib.import_module("keyload.v1.model_loader_pb2_grpc"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("checksums", type=pathlib.Path)
    parser.add_argument("--some", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyload-contract-") as directory:
        messages, services = _contract(directory)
    expected = json.loads(arguments.checksums.read_text())
    unlimited = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(arguments.address, options=unlimited) as channel:
        stub = services.ModelLoaderServiceStub(channel)
        selections = [messages.KeySelection()]
        if arguments.some:
            listed = messages.ListKeysRequest(model=arguments.model, states=[messages.KEY_STATE_RESIDENT])
            keys = [key.key for part in stub.ListKeys(listed) for key in part.keys]
            selections = [messages.KeySelection(keys=keys[first:first + KEYS_A_REQUEST])
                          for first in range(0, len(keys), KEYS_A_REQUEST)]
            expected = {key: expected[key] for key in keys}
        sums, key = {}, ""
        for select in selections:
            for part in stub.ReadTensors(messages.ReadTensorsRequest(model=arguments.model, select=select)):
                if part.tensor.key:
                    key = part.tensor.key
                    sums[key] = xxhash.xxh3_64()
                sums[key].update(part.data)
    wrong = [name for name, sum_ in expected.items() if name not in sums or sums[name].hexdigest() != sum_]
    if wrong or len(sums) != len(expected) or not expected:
        sys.exit(f"{len(wrong)} of {len(expected)} tensors differ, {len(sums)} read: {wrong[:3]}")
    print(json.dumps({"checked": len(expected)}))


if __name__ == "__main__":
    main()
