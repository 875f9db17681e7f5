"""Manifests of quantised checkpoints: what must be stored, at the full size of DeepSeek-V3 too."""

import json
import pathlib
import sys
import unittest

import peers  # noqa: I001 (sets the environment before the packages are imported)
import checkpoints
import families
from keyload.manifest import ManifestError, make_manifest

sys.path.insert(0, str(pathlib.Path(peers.daemon.SOURCE_DIR) / "bench" / "peers"))
import deepseek_names  # noqa: E402

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def config_of(fields, quantization):
    directory = peers.new_directory()
    (directory / "config.json").write_text(json.dumps({**fields, "quantization_config": quantization}))
    return directory


def family(name):
    return next(family for family in families.FAMILIES if family.name == name)


def tensors_of(manifest):
    return {tensor["name"]: (tensor["dtype"], tensor["shape"]) for tensor in manifest["tensors"]}


class QuantisedTest(unittest.TestCase):
    def fields(self, name, **changes):
        return {**family(name).make_config(False, **changes).to_dict(), "dtype": "bfloat16"}

    def test_blocks_of_fp8_have_scales(self):
        tensors = tensors_of(make_manifest(config_of(self.fields("llama", intermediate_size=200), FP8)))
        self.assertEqual(tensors["model.layers.0.mlp.down_proj.weight"], ("F8_E4M3", [16, 200]))
        self.assertEqual(tensors["model.layers.0.mlp.down_proj.weight_scale_inv"], ("F32", [1, 2]))
        self.assertEqual(tensors["model.norm.weight"], ("BF16", [16]))
        self.assertEqual(tensors["lm_head.weight"], ("BF16", [32, 16]))

    def test_scales_of_experts_are_conversions_or_single_keys(self):
        directory = config_of(self.fields("deepseek_v3"), FP8)
        sources = [source for conversion in make_manifest(directory)["conversions"] for source in conversion["sources"]]
        self.assertIn("mlp.experts.*.up_proj.weight_scale_inv", sources)
        stored = make_manifest(directory, as_stored=True)
        self.assertEqual(tensors_of(stored)["model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"], ("F32", [1, 1]))
        self.assertEqual(stored["conversions"], [])

    def test_modules_that_are_not_quantised_stay(self):
        quantization = {**FP8, "modules_to_not_convert": ["model.layers.0.self_attn.q_proj", "lm_head"]}
        tensors = tensors_of(make_manifest(config_of(self.fields("llama"), quantization)))
        self.assertEqual(tensors["model.layers.0.self_attn.q_proj.weight"][0], "BF16")
        self.assertEqual(tensors["model.layers.1.self_attn.q_proj.weight"][0], "F8_E4M3")

    def test_packages_that_are_not_here_are_named(self):
        for quantization, package in (({"quant_method": "awq", "bits": 4, "group_size": 8}, "gptqmodel"),
                                      ({"quant_method": "gptq", "bits": 4, "group_size": 8}, "optimum"),
                                      ({"quant_method": "compressed-tensors", "config_groups": {}},
                                       "compressed-tensors")):
            with self.assertRaisesRegex(ManifestError, f"{quantization['quant_method']} needs a package.*{package}"):
                make_manifest(config_of(self.fields("llama"), quantization))

    def test_an_unknown_method_is_named(self):
        with self.assertRaisesRegex(ManifestError, "quantization_config: secret"):
            make_manifest(config_of(self.fields("llama"), {"quant_method": "secret"}))


class DeepSeekTest(unittest.TestCase):
    """The released files' names, dtypes and shapes, which bench/peers/deepseek_names.py has, against the manifest."""

    @classmethod
    def setUpClass(cls):
        cls.stored = deepseek_names.deepseek_v3(deepseek_names.REAL)
        fields = {**deepseek_names.config(deepseek_names.REAL), "architectures": ["DeepseekV3ForCausalLM"]}
        manifest = make_manifest(config_of(fields, FP8), as_stored=True)
        cls.expected = {name for name in tensors_of(manifest) if "inv_freq" not in name}
        cls.manifest = peers.write_manifest(manifest)

    def plan(self, without=()):
        directory = peers.new_directory()
        kept = {name: tensor for name, tensor in self.stored.items() if name not in without}
        checkpoints.write_sparse_file(directory / "model.safetensors", kept)
        result = peers.plan(directory, self.manifest, "--device-map", "disk")
        self.assertEqual(result.code, 0, result)
        return result.json

    def test_the_whole_checkpoint(self):
        keys = self.plan()["keys"]
        self.assertEqual((keys["missing"], keys["unexpected"], keys["mismatched"]), (0, 0, 0))
        self.assertEqual(keys["expected"], len(self.expected))
        self.assertEqual(keys["unexpectedIgnored"], sum(name.startswith("model.layers.61.") for name in self.stored))

    def test_exactly_the_scales_that_are_taken_away_are_missing(self):
        scales = [name for name in self.expected if name.endswith(".weight_scale_inv")][::1000][:43]
        report = self.plan(without=scales)
        self.assertEqual((set(report["missingKeys"]), report["keys"]["unexpected"]), (set(scales), 0))
        self.assertEqual(len(scales), 43)


if __name__ == "__main__":
    unittest.main()
