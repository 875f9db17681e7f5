"""A checkpoint of eight layers, and what a daemon reads and keeps of it."""

import safetensors

import checkpoints
import daemon

SLACK_BYTES = 64 * 1024
LAYERS = 8
TENSOR = ("F32", [512, 512])
TENSOR_BYTES = 512 * 512 * 4


class LayersTest(daemon.DaemonTest):
    """Eight layers of two tensors of 1 MiB in three shards; tests load them as "m"."""

    flags = ("--simulate-gpus", "2x64MiB")
    placement = ("--device-map", "cuda:0")

    def setUp(self):
        super().setUp()
        self.tensors = {f"layers.{layer}.{part}": TENSOR for layer in range(LAYERS) for part in ("attn", "mlp")}
        self.source = self.models / "layers"
        checkpoints.write_sharded(self.source, self.tensors, 3)
        self.memory = self.daemon.device_memory()

    def load_lazy(self, *more, model="m", source=None):
        return self.succeed("load", model, "--from", source or self.source, "--lazy", *self.placement, *more)

    def keys(self, state, model="m"):
        return {key["key"] for key in self.succeed("keys", model, "--state", state)["keys"]}

    def layer(self, *numbers):
        return {f"layers.{number}.{part}" for number in numbers for part in ("attn", "mlp")}

    def assert_resident(self, keys, model="m"):
        self.assertEqual(self.keys("resident", model), set(keys))
        self.assertEqual(self.keys("lazy", model), set(self.tensors) - set(keys))

    def read(self, model, *keys):
        out = self.directory / "read.safetensors"
        self.succeed("read", model, *keys, "--out", out)
        return {name: bytes(tensor["data"]) for name, tensor in safetensors.deserialize(out.read_bytes())}

    def assert_reads_what_is_stored(self, keys, model="m"):
        stored = {}
        for path in self.source.glob("*.safetensors"):
            stored |= {name: bytes(tensor["data"]) for name, tensor in safetensors.deserialize(path.read_bytes())}
        self.assertEqual(self.read(model, *sorted(keys)), {key: stored[key] for key in keys})

    def read_by(self, action):
        """Bytes that the daemon read while `action` ran."""
        before = self.daemon.read_characters()
        action()
        return self.daemon.read_characters() - before
