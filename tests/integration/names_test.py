"""Checkpoints whose names, quantization or tied tensors are written in another way than config.json says, end to end."""

import json
import unittest

import checkpoints
import daemon

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2}
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", **SIZES}
PROJECTIONS = {"self_attn.q_proj": [32, 32], "self_attn.k_proj": [16, 32], "self_attn.v_proj": [16, 32],
               "self_attn.o_proj": [32, 32], "mlp.gate_proj": [48, 32], "mlp.up_proj": [48, 32], "mlp.down_proj": [32, 48]}


def llama(quantise=lambda layer, shape: {f"{layer}.weight": ("F32", shape)}):
    tensors = {"model.embed_tokens.weight": ("F32", [64, 32])}
    for number in range(SIZES["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        for projection, shape in PROJECTIONS.items():
            tensors.update(quantise(layer + projection, shape))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] = ("F32", [32])
    tensors["model.norm.weight"] = ("F32", [32])
    tensors["lm_head.weight"] = ("F32", [64, 32])
    return tensors


def int8(layer, shape):
    """As bitsandbytes stores it."""
    return {f"{layer}.weight": ("I8", shape), f"{layer}.SCB": ("F32", shape[:1]), f"{layer}.weight_format": ("U8", [])}


class NamesTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "2x1GiB")

    def write(self, tensors, config=None, metadata=None):
        source = self.models / "model"
        checkpoints.write_file(source / "model.safetensors", tensors)
        if metadata is not None:
            data = (source / "model.safetensors").read_bytes()
            length = int.from_bytes(data[:8], "little")
            entries = {"__metadata__": metadata, **json.loads(data[8:8 + length])}
            (source / "model.safetensors").write_bytes(checkpoints.raw_header(entries) + data[8 + length:])
        (source / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
        return source

    def test_a_wrapped_checkpoint_is_loaded_with_the_rename_that_is_found(self):
        source = self.write({f"module._orig_mod.{name}": tensor for name, tensor in llama().items()})
        rejected = self.keyload("load", "m", "--from", source, "--strict")
        self.assertEqual(rejected.code, 1, rejected)
        self.assertIn(r"--rename '^module\._orig_mod\.=>'", rejected.json["warnings"][0])
        report = self.succeed("load", "m", "--from", source, "--strict", "--rename", "auto")
        self.assertEqual((report["outcome"], report["keys"]["missing"], report["keys"]["unexpected"]), ("COMPLETE", 0, 0))
        self.assertIn("renamed as by", report["warnings"][0])
        out = self.directory / "q.safetensors"
        self.succeed("read", "m", "model.layers.1.self_attn.q_proj.weight", "--out", out)
        stored = checkpoints.content("module._orig_mod.model.layers.1.self_attn.q_proj.weight", "F32", [32, 32])
        self.assertTrue(out.read_bytes().endswith(stored))

    def test_a_rename_that_does_not_mend_all_is_told_and_not_applied(self):
        tensors = {f"base_model.model.{name}": tensor for name, tensor in llama().items()}
        del tensors["base_model.model.model.layers.2.mlp.up_proj.weight"]
        report = self.succeed("plan", "m", "--from", self.write(tensors), "--rename", "auto", "--report-only")
        self.assertEqual(report["keys"]["missing"], report["keys"]["expected"])
        self.assertIn("29 of 30 missing keys are in the checkpoint under another name", report["warnings"][0])

    def test_an_alias_supplies_a_tied_key(self):
        tensors = llama()
        del tensors["lm_head.weight"]
        source = self.write(tensors, metadata={"format": "pt", "lm_head.weight": "model.embed_tokens.weight"})
        report = self.succeed("load", "m", "--from", source, "--strict")
        self.assertEqual((report["keys"]["missing"], report["keys"]["missingTied"]), (0, 1))
        out = self.directory / "head.safetensors"
        self.succeed("read", "m", "lm_head.weight", "--out", out)
        self.assertTrue(out.read_bytes().endswith(checkpoints.content("model.embed_tokens.weight", "F32", [64, 32])))
        own = self.succeed("load", "own", "--from", source, "--expected", "checkpoint")
        self.assertEqual((own["keys"]["expected"], own["keys"]["missingTied"]), (30, 1))

    def test_a_method_without_a_template_is_judged_by_like_layers(self):
        config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
        tensors = llama(int8)
        report = self.succeed("load", "m", "--from", self.write(tensors, config), "--strict", "--expected", "config")
        self.assertEqual((report["outcome"], report["keys"]["loaded"]), ("COMPLETE", len(tensors)))
        self.assertIn("each is expected to have what the layers like it have", report["warnings"][0])
        gone = "model.layers.1.mlp.up_proj.SCB"
        del tensors[gone]
        report = self.succeed("plan", "n", "--from", self.write(tensors, config), "--report-only")
        self.assertEqual(report["missingKeys"], [gone])

    def test_what_is_not_understood_falls_back(self):
        tensors = llama(lambda layer, shape: int8(layer.replace("proj", "projection"), shape))
        source = self.write(tensors, {"quantization_config": {"quant_method": "bitsandbytes"}})
        report = self.succeed("plan", "m", "--from", source)
        self.assertEqual((report["expectedFrom"], report["keys"]["missing"]), ("CHECKPOINT", 0))
        self.assertIn("under names that such a model does not have", report["warnings"][0])
        self.refused(6, "CONFIG_NOT_SUPPORTED", "plan", "m", "--from", source, "--expected", "config")

    def test_a_map_of_ones_own_need_not_name_what_is_computed(self):
        places = {"model.embed_tokens": 0, "model.layers": "1", "model.norm": "cpu", "lm_head": "cpu"}
        map_file = self.directory / "map.json"
        map_file.write_text(json.dumps(places))
        report = self.succeed("load", "m", "--from", self.write(llama()), "--device-map", map_file)
        self.assertEqual((report["outcome"], report["keys"]["loaded"]), ("COMPLETE", 30))
        del places["lm_head"]
        map_file.write_text(json.dumps(places))
        error = self.refused(6, "DEVICE_MAP_INCOMPLETE", "load", "n", "--from", self.models / "model", "--device-map", map_file)
        self.assertIn("lm_head.weight", error["message"])

    def test_the_host_counts_beside_gpus_that_are_planned_for(self):
        source = self.write(llama())
        report = self.succeed("plan", "m", "--from", source, "--plan-for", "1x40000", "--max-memory", "cpu=1 GiB")
        self.assertEqual({entry for entry in report["deviceMap"].values()}, {"cuda:0", "cpu"})


if __name__ == "__main__":
    unittest.main()
