"""`--copy`: tensors in memory that do not depend on their file any more."""

import unittest

import checkpoints
import layers


class CopyTest(layers.LayersTest):
    def test_copies_outlive_a_rewrite_of_their_file(self):
        stored = {name: checkpoints.content(name, *spec) for name, spec in self.tensors.items()}
        report = self.succeed("load", "m", "--from", self.source, "--device-map", "cpu", "--copy")
        self.assertEqual((report["outcome"], report["bytes"]["mapped"]), ("COMPLETE", 0))
        self.assertEqual(self.read("m", *self.tensors), stored)
        for path in self.source.glob("*.safetensors"):
            size = path.stat().st_size
            with open(path, "r+b") as file:
                file.write(bytes(size))
        self.assertEqual(self.read("m", *self.tensors), stored)

    def test_copies_take_memory_and_give_it_back(self):
        self.succeed("load", "m", "--from", self.source, "--device-map", "cpu", "--copy")
        used, _, _ = self.daemon.device_memory()["cpu"]
        self.assertGreaterEqual(used, self.memory["cpu"][0] + len(self.tensors) * layers.TENSOR_BYTES)
        self.succeed("unload", "m")
        self.assert_memory(self.memory)


if __name__ == "__main__":
    unittest.main()
