"""transformers' own cases of loading, with their names, through the command; beside from_pretrained where that answers.

Not here, as they are about its insides: test_loading_respect_env_variable_for_threading,
test_load_state_dict_disable_mmap and test_can_init_all_missing_weights (keyload gives missing keys no values).
"""

import unittest

import peers  # noqa: I001 (sets the environment before the packages are imported)
import families
import tally
import torch
import transformers
from keyload.manifest import ManifestError, build, conversions, describe
from safetensors import deserialize
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import core_model_loading as loading


class TinyConfig(PreTrainedConfig):
    model_type = "keyload_tiny"


class Tiny(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "base"

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Linear(5, 5)
        self.linear_2 = nn.Linear(5, 5)
        self.post_init()


class TiedTiny(Tiny):
    _tied_weights_keys = {"linear_2.weight": "linear.weight"}


class ThreeTied(PreTrainedModel):
    config_class = TinyConfig
    _tied_weights_keys = {"linear_2.weight": "linear.weight", "linear_3.weight": "linear.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.linear, self.linear_2, self.linear_3 = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.post_init()


class WithHead(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "base"

    def __init__(self, config):
        super().__init__(config)
        self.base = Tiny(config)
        self.linear = nn.Linear(5, 5)
        self.linear2 = nn.Linear(5, 5)
        self.post_init()


class WithTiedHead(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "base"
    _tied_weights_keys = {"decoder.weight": "base.linear.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.base = Tiny(config)
        self.decoder = nn.Linear(5, 5)
        self.post_init()


def config():
    made = TinyConfig(tie_word_embeddings=True)
    made.dtype = "float32"
    return made


def state_of(kind, **changes):
    torch.manual_seed(3)
    state = {name: torch.rand(tensor.shape) for name, tensor in kind(config()).state_dict().items()}
    return {name: tensor for name, tensor in {**state, **changes}.items() if tensor is not None}


def write(state):
    directory = peers.new_directory()
    save_file({name: tensor.clone() for name, tensor in state.items()}, directory / "model.safetensors",
              {"format": "pt"})
    config().save_pretrained(directory)
    return directory


def manifest_of(kind):
    return describe(build.build(config(), kind, torch.float32), torch.float32)


class TransformersCase(unittest.TestCase):
    def report(self, kind, directory, *options, command="plan", code=0):
        path = peers.write_manifest(manifest_of(kind))
        result = peers.shared_daemon().command("--json", command, "m", "--from", directory, "--manifest", path,
                                               *(["--report-only"] if code == 0 else []), *options)
        self.assertEqual(result.code, code, result)
        if command == "load":
            peers.shared_daemon().command("unload", "m")
        return result.json

    def check(self, kind, state, missing=(), unexpected=(), mismatched=(), beside=True):
        """The sets are these, and transformers' are too. Returns the report."""
        directory = write(state)
        report = self.report(kind, directory)
        found = (set(report["missingKeys"]), set(report["unexpectedKeys"]),
                 {entry["key"] for entry in report["mismatchedKeys"]})
        self.assertEqual(found, (set(missing), set(unexpected), set(mismatched)))
        if beside:
            _, info = kind.from_pretrained(directory, output_loading_info=True, ignore_mismatched_sizes=True)
            self.assertEqual((info["missing_keys"], info["unexpected_keys"],
                              {key for key, *_ in info["mismatched_keys"]}), found)
            tally.checkpoints += 1
        return report


class ModelUtilsTest(TransformersCase):
    def test_tied_weights_reload(self):
        report = self.check(TiedTiny, state_of(TiedTiny, **{"linear_2.weight": None}))
        self.assertEqual(report["keys"]["missingTied"], 1)
        self.check(WithTiedHead, state_of(Tiny), missing={"decoder.bias"})

    def test_tied_weights_can_load_symmetrically(self):
        report = self.check(TiedTiny, state_of(TiedTiny, **{"linear.weight": None}))
        self.assertEqual(report["keys"]["missingTied"], 1)

    def test_tied_weights_can_load_symmetrically_multiple_keys(self):
        for absent in (("linear", "linear_2"), ("linear", "linear_3"), ("linear_2", "linear_3")):
            state = state_of(ThreeTied, **{f"{name}.weight": None for name in absent})
            self.assertEqual(self.check(ThreeTied, state)["keys"]["missingTied"], 2)

    def test_tied_weights_are_not_tied_if_both_present_but_different(self):
        report = self.report(TiedTiny, write(state_of(TiedTiny)), command="load")
        self.assertEqual((report["outcome"], report["keys"]["tiedConflicts"]), ("COMPLETE", 1))

    def test_tied_weights_are_tied_if_both_present_and_similar(self):
        same = torch.rand(5, 5)
        state = state_of(TiedTiny, **{"linear.weight": same, "linear_2.weight": same})
        report = self.report(TiedTiny, write(state), command="load")
        self.assertEqual((report["outcome"], report["keys"]["tiedConflicts"]), ("COMPLETE", 0))

    def test_tied_weights_are_missing_if_both_absent(self):
        absent = {"linear.weight", "linear_2.weight"}
        self.check(TiedTiny, state_of(TiedTiny, **dict.fromkeys(absent)), missing=absent)

    def test_unexpected_keys_warnings(self):
        head = state_of(WithHead, **{"linear.weight": None, "linear.bias": None})
        self.check(Tiny, head, unexpected={"linear2.weight", "linear2.bias"})
        self.check(Tiny, state_of(Tiny, added_key=torch.rand(2)), unexpected={"added_key"})

    def test_a_head_that_is_named_as_a_part_of_the_base(self):
        """transformers strips the prefix first: base.linear and linear of the head are one key of the base model, and
        the last one read wins. In keyload two stored keys for one model key are an error."""
        error = self.report(Tiny, write(state_of(WithHead)), code=6)["error"]
        self.assertEqual(error["reason"], "KEY_CONFLICT")
        tally.by_design += 1

    def test_exact_names_go_before_the_prefix(self):
        """transformers strips the prefix first and swaps the two linears; the sets are the same, the places are not."""
        self.check(WithHead, state_of(WithHead))
        state = state_of(WithHead)
        out = peers.new_directory() / "read.safetensors"
        server = peers.shared_daemon()
        path = peers.write_manifest(manifest_of(WithHead))
        self.assertEqual(server.command("load", "m", "--from", write(state), "--manifest", path, "--report-only").code, 0)
        self.assertEqual(server.command("read", "m", "linear.weight", "--out", out).code, 0)
        server.command("unload", "m")
        (_, stored), = deserialize(out.read_bytes())
        self.assertEqual(bytes(stored["data"]), state["linear.weight"].numpy().tobytes())

    def test_ignore_missing_key_works(self):
        class Ignoring(Tiny):
            _keys_to_ignore_on_load_missing = [r"linear_2\.w"]

        report = self.check(Ignoring, state_of(Tiny, **{"linear_2.weight": None}))
        self.assertEqual(report["keys"]["missingIgnored"], 1)

    def test_device_map_works_with_unexpected_keys(self):
        entries = peers.new_directory() / "map.json"
        entries.write_text('{"linear": "cpu", "linear_2": "disk"}')
        state = state_of(Tiny, mtp=torch.rand(2))
        report = self.report(Tiny, write(state), "--device-map", entries, command="load")
        self.assertEqual((report["outcome"], report["unexpectedKeys"]), ("COMPLETE", ["mtp"]))

    def test_device_map_works_with_unexpected_keys_sharded(self):
        entries = peers.new_directory() / "map.json"
        entries.write_text('{"linear": "cpu", "linear_2": "disk"}')
        report = self.report(Tiny, self.sharded({"mtp": torch.rand(2)}), "--device-map", entries, command="load")
        self.assertEqual((report["outcome"], report["unexpectedKeys"]), ("COMPLETE", ["mtp"]))

    def sharded(self, more):
        directory = peers.new_directory()
        Tiny(config()).save_pretrained(directory, max_shard_size=150, state_dict=state_of(Tiny, **more))
        self.assertTrue((directory / "model.safetensors.index.json").exists())
        return directory

    def test_checkpoint_sharding_local(self):
        report = self.report(Tiny, self.sharded({}), command="load")
        self.assertEqual((report["outcome"], report["keys"]["loaded"]), ("COMPLETE", 4))
        self.assertGreater(len(report["shards"]), 1)

    def test_disk_offload(self):
        state = state_of(Tiny)
        server, out = peers.shared_daemon(), peers.new_directory() / "read.safetensors"
        self.assertEqual(server.command("load", "m", "--from", write(state), "--device-map", "disk").code, 0)
        self.assertEqual(server.command("read", "m", *state, "--out", out).code, 0)
        server.command("unload", "m")
        self.assertEqual({name: bytes(entry["data"]) for name, entry in deserialize(out.read_bytes())},
                         {name: tensor.numpy().tobytes() for name, tensor in state.items()})


class ModelCommonTest(TransformersCase):
    OTHER = {"linear_2.weight": torch.rand(4, 5)}

    def test_load_with_mismatched_shapes(self):
        report = self.report(Tiny, write(state_of(Tiny, **self.OTHER)), "--max-mismatched", 0, code=1)
        entry, = report["mismatchedKeys"]
        self.assertEqual((report["outcome"], entry["key"], entry["foundShape"]),
                         ("REJECTED", "linear_2.weight", [4, 5]))

    def test_can_load_ignoring_mismatched_shapes(self):
        self.check(Tiny, state_of(Tiny, **self.OTHER), mismatched={"linear_2.weight"})
        report = self.report(Tiny, write(state_of(Tiny, **self.OTHER)), command="load")
        self.assertEqual((report["outcome"], report["keys"]["loaded"]), ("INCOMPLETE", 3))

    def test_correct_missing_keys(self):
        head = {"linear.weight", "linear.bias", "linear2.weight", "linear2.bias"}
        state = {f"base.{name}": tensor for name, tensor in state_of(Tiny).items()}
        report = self.report(WithHead, write(state))
        self.assertEqual(set(report["missingKeys"]), head)

    def test_can_load_from_already_mapped_keys(self):
        directory = write(state_of(Tiny))
        for rename in ("linear_2=>linear_9", r"^=>base.", "linear(_2)?=>x"):
            self.assertEqual(self.report(Tiny, directory, "--rename", rename)["keys"]["missing"], 0, rename)


class Tower(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.vision, self.language_model = nn.Module(), nn.Module()
        for module in (self.vision, self.language_model, self):
            module.q = nn.Linear(5, 5, bias=False)
        self.post_init()


class CoreModelLoadingTest(TransformersCase):
    def renamed(self, kind, transforms, state):
        manifest = manifest_of(kind)
        samples = conversions.samples_of([*state, *(tensor["name"] for tensor in manifest["tensors"])], "")
        manifest["renames"] = conversions.renames_of(transforms, samples)
        report = peers.plan(write(state), manifest).json
        return set(report["missingKeys"]), set(report["unexpectedKeys"])

    def test_scoped_renaming_does_not_leak(self):
        renaming = loading.WeightRenaming("old_q", "q")
        renaming.scope_prefix, renaming.base_model_prefix = "vision", ""
        state = {f"{scope}old_q.weight": torch.rand(5, 5) for scope in ("vision.", "language_model.", "")}
        self.assertEqual(self.renamed(Tower, [renaming], state),
                         ({"language_model.q.weight", "q.weight"}, {"language_model.old_q.weight", "old_q.weight"}))

    def test_group_weight_rename(self):
        """A renaming that remembers earlier keys is refused: no list of patterns makes both of its cases."""
        group = loading.GroupWeightRename(["norm0", "norm1"], ["norm1", "norm2"])
        with self.assertRaisesRegex(ManifestError, "GroupWeightRename"):
            conversions.renames_of([group], ["norm0.weight"])

    def test_the_leftmost_alternative_wins(self):
        renaming = loading.WeightRenaming(["old_q", "old"], "q")
        state = {"vision.old_q.weight": torch.rand(5, 5), "language_model.old.weight": torch.rand(5, 5),
                 "q.weight": torch.rand(5, 5)}
        self.assertEqual(self.renamed(Tower, [renaming], state), (set(), set()))

    def test_many_patterns(self):
        renamings = [loading.WeightRenaming(rf"old\.{i}\.", f"new.{i}.") for i in range(200)]
        names = [f"old.{i}.weight" for i in range(200)]
        rules = conversions.renames_of(renamings, names)
        state = {"old.199.weight": torch.rand(2), **state_of(Tiny)}
        manifest = {**manifest_of(Tiny), "renames": rules}
        self.assertEqual(peers.plan(write(state), manifest).json["unexpectedKeys"], ["new.199.weight"])

    def test_moe_and_qkv_conversion(self):
        family = next(family for family in families.FAMILIES if family.name == "qwen3_moe")
        config = family.make_config(False, num_key_value_heads=2)  # q, k and v of one size
        directory = peers.new_directory()
        families.save(directory, config, family.head)
        state = load_file(directory / "model.safetensors")
        for layer in range(2):
            parts = [state.pop(f"model.layers.{layer}.self_attn.{part}_proj.weight") for part in "qkv"]
            state[f"model.layers.{layer}.self_attn.qkv_proj.weight"] = torch.cat(parts)
        save_file(state, directory / "model.safetensors")
        targets = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
        converter = loading.WeightConverter("model.layers.0.self_attn.qkv_proj.weight", targets, [loading.Chunk(dim=0)])
        model = build.build(config, transformers.Qwen3MoeForCausalLM, torch.float32)
        manifest = describe(model, torch.float32)
        manifest["conversions"] += conversions.conversions_of([converter], model)
        self.assertEqual(manifest["conversions"][-1]["operations"], [{"kind": "KIND_CHUNK", "dims": [0]}])
        report = peers.plan(directory, manifest).json
        self.assertEqual(report["missingKeys"], [f"model.layers.1.self_attn.{part}_proj.weight" for part in "kqv"])
        self.assertEqual(report["unexpectedKeys"], ["model.layers.1.self_attn.qkv_proj.weight"])
        self.assertEqual(report["mismatchedKeys"], [])


if __name__ == "__main__":
    unittest.main()
