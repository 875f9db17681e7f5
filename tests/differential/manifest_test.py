"""keyload-manifest itself: what it refuses and how, both forms, patterns for RE2, conversions as data."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unittest
import unittest.mock

import peers  # noqa: I001 (sets the environment before the packages are imported)
import families
import torch
import transformers
from keyload.manifest import ManifestError, build, cli, conversions, describe, patterns
from transformers import core_model_loading as loading


def run(*arguments):
    """(exit code, standard error) of keyload-manifest in this process."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return code, err.getvalue()


def write_config(**fields):
    directory = peers.new_directory()
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


LLAMA = next(family for family in families.FAMILIES if family.name == "llama")
MIXTRAL = next(family for family in families.FAMILIES if family.name == "mixtral")


def model_of(family, tied=False):
    return build.build(family.make_config(tied), getattr(transformers, family.head), torch.float32)


class CommandTest(unittest.TestCase):
    def refused(self, text, *arguments):
        code, err = run(*arguments)
        self.assertEqual(code, 2, err)
        self.assertEqual(err.count("\n"), 1, err)
        self.assertIn(text, err)

    def directory(self, family=LLAMA, **changes):
        return write_config(**{**family.make_config(False).to_dict(), **changes})

    def test_a_directory_its_config_and_a_class_name_say_the_same(self):
        directory = self.directory()
        documents = []
        for arguments in ([directory], [directory / "config.json"],
                          ["LlamaForCausalLM", "--config", directory / "config.json"]):
            out = peers.new_directory() / "m.json"
            self.assertEqual(run(*arguments, "--out", out)[0], 0)
            documents.append(json.loads(out.read_text()))
        self.assertEqual(documents[0], documents[1])
        self.assertEqual(documents[0], documents[2])
        self.assertEqual(documents[0]["architecture"], "LlamaForCausalLM")

    def test_as_a_process_it_prints_the_manifest_and_nothing_else(self):
        environment = {**os.environ, "PYTHONPATH": peers.PYTHON_PACKAGE}
        done = subprocess.run([sys.executable, "-m", "keyload.manifest", self.directory()], capture_output=True,
                              env=environment, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertIn("model.layers.1.mlp.down_proj.weight", {t["name"] for t in json.loads(done.stdout)["tensors"]})

    def test_the_package_installs_its_command(self):
        directory = peers.new_directory()
        shutil.copytree(peers.PYTHON_PACKAGE, directory / "source")  # building leaves files beside the sources
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation",
                        "--no-deps", "--target", directory / "installed", directory / "source"], check=True)
        done = subprocess.run([directory / "installed" / "bin" / "keyload-manifest", "--help"], capture_output=True,
                              env={**os.environ, "PYTHONPATH": str(directory / "installed")}, check=True, text=True)
        self.assertIn("--as-stored", done.stdout)

    def test_the_gate_takes_the_manifest(self):
        whole, headless = self.directory(), peers.new_directory()
        manifest = peers.new_directory() / "m.json"
        self.assertEqual(run(whole, "--out", manifest)[0], 0)
        families.save(whole, LLAMA.make_config(False), "LlamaForCausalLM")
        families.save(headless, LLAMA.make_config(False), "LlamaModel")
        for directory, code, missing in ((whole, 0, []), (headless, 1, ["lm_head.weight"])):
            command = [peers.daemon.BIN_DIR / "keyload", "--json", "check", directory, "--manifest", manifest]
            done = subprocess.run([*command, "--strict"], capture_output=True, check=False)
            self.assertEqual((done.returncode, json.loads(done.stdout)["missingKeys"]), (code, missing))

    def test_the_binary_form_is_the_same_manifest(self):
        directory = self.directory(tie_word_embeddings=True)
        files = [peers.new_directory() / name for name in ("m.json", "m.bin")]
        self.assertEqual(run(directory, "--out", files[0])[0], 0)
        self.assertEqual(run(directory, "--binary", "--out", files[1])[0], 0)
        self.assertLess(files[1].stat().st_size, files[0].stat().st_size)
        families.save(directory, LLAMA.make_config(True, num_hidden_layers=1), "LlamaForCausalLM")
        reports = [peers.plan(directory, file, "--device-map", "auto").json for file in files]
        for field in ("keys", "missingKeys", "deviceMap"):
            self.assertEqual(reports[0][field], reports[1][field])
        self.assertEqual(reports[0]["keys"]["missingTied"], 1)

    def test_code_of_the_directory_is_refused_and_not_run(self):
        directory = write_config(model_type="mine", architectures=["Mine"], auto_map={"AutoModel": "mine.Mine"})
        (directory / "mine.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n")
        self.refused("never runs code", directory)
        self.assertFalse((directory / "ran").exists())
        self.refused("never runs code", self.directory(architectures=["Mine"], auto_map={"AutoModel": "mine.Mine"}))

    def test_bad_sources_are_one_line_each(self):
        self.refused("config.json: No such file", peers.new_directory())
        self.refused("neither a file, nor a directory", "no/such/thing")
        self.refused("model class NoSuchModel", "NoSuchModel")
        self.refused("model class os", "os")
        self.refused("no model_type", write_config(architectures=["LlamaForCausalLM"]))
        self.refused("no architectures", self.directory(architectures=None))
        self.refused("is not one of BertModel", self.directory(), "--architecture", "BertModel")
        self.refused("--dtype I8", self.directory(), "--dtype", "I8")
        self.refused("ZeroDivisionError", self.directory(num_attention_heads=0))
        self.refused("cannot be built", self.directory(hidden_act="no_such"))
        self.refused("unrecognized arguments", self.directory(), "--fast")
        broken = peers.new_directory()
        (broken / "config.json").write_text("{")
        self.refused("not JSON", broken)

    def test_a_kernel_that_the_configuration_names_is_not_fetched(self):
        directory = self.directory(attn_implementation="somebody/kernel", _attn_implementation="somebody/kernel")
        self.assertEqual(run(directory, "--out", peers.new_directory() / "m.json"), (0, unittest.mock.ANY))


class ContentsTest(unittest.TestCase):
    def test_kinds_and_order_are_those_of_the_model(self):
        manifest = describe(model_of(LLAMA), torch.float32)
        expected = [name for name in model_of(LLAMA).state_dict()]
        persistent = [t["name"] for t in manifest["tensors"] if t["kind"] != "KIND_NON_PERSISTENT_BUFFER"]
        self.assertEqual(persistent, expected)
        others = {t["name"] for t in manifest["tensors"]} - set(expected)
        self.assertEqual(others, {"model.rotary_emb.inv_freq", "model.rotary_emb.original_inv_freq"})
        self.assertEqual(manifest["modules"][:2], [{"name": "model", "className": "LlamaModel"},
                                                   {"name": "model.embed_tokens", "className": "Embedding"}])

    def test_what_stays_in_fp32_is_named_by_components(self):
        family = next(family for family in families.FAMILIES if family.name == "deepseek_v3")
        model = build.build(family.make_config(False), transformers.DeepseekV3ForCausalLM, torch.bfloat16)
        manifest = describe(model, torch.bfloat16)
        self.assertEqual(manifest["keepInFp32"], ["gate"])
        self.assertEqual({t["dtype"] for t in manifest["tensors"] if ".gate." in t["name"]}, {"F32"})
        self.assertEqual({t["dtype"] for t in manifest["tensors"] if "proj" in t["name"]}, {"BF16"})

    def test_components_that_would_pick_more_are_refused(self):
        model = model_of(LLAMA)
        model._keep_in_fp32_modules = {"layers.0.mlp.up_proj"}
        with self.assertRaisesRegex(ManifestError, "cannot be said by components"):
            describe(model, torch.float32)

    def test_experts_are_conversions_or_single_keys(self):
        manifest = describe(model_of(MIXTRAL), torch.float32)
        self.assertEqual(manifest["conversions"][0], {
            "sources": [".experts.*.w1.weight", ".experts.*.w3.weight"], "targets": [".experts.gate_up_proj"],
            "operations": [{"kind": "KIND_STACK", "dims": [0]}, {"kind": "KIND_CONCATENATE", "dims": [1]}]})
        stored = describe(model_of(MIXTRAL), torch.float32, as_stored=True)
        self.assertEqual(stored["conversions"], [])
        self.assertIn({"name": "model.layers.1.block_sparse_moe.experts.2.w3.weight", "kind": "KIND_PARAMETER",
                       "dtype": "F32", "shape": [24, 16]}, stored["tensors"])
        names = [t["name"] for t in stored["tensors"]]
        self.assertLess(names.index("model.layers.0.block_sparse_moe.experts.0.w1.weight"),
                        names.index("model.layers.1.self_attn.q_proj.weight"))

    def test_an_unknown_operation_is_refused_by_name(self):
        model = model_of(MIXTRAL)
        converter = loading.WeightConverter("w1.weight", "experts.gate_up_proj", [loading.Interleave(dim=1)])
        with self.assertRaisesRegex(ManifestError, "Interleave"):
            conversions.conversions_of([converter], model)
        converter = loading.WeightConverter("w1.weight", "experts.gate_up_proj", [loading.Transpose(check_dims=True)])
        with self.assertRaisesRegex(ManifestError, "Transpose that depends on the stored shape"):
            conversions.conversions_of([converter], model)


class PatternsTest(unittest.TestCase):
    NAMES = ("model.layers.0.a", "model.language_model.a", "model.visual.a", "model.visually.a", "model", "model.v",
             "encoder.layer.1.weight", "model.encoder.layer.1.weight", "layer.3", "x.weight", "x.weight_g",
             "x.weight_v_y")

    def same(self, source, target):
        pattern, replacement = patterns.to_re2(source, target)
        self.assertNotRegex(pattern, r"\(\?[!<=]")
        renaming = loading.WeightRenaming(source, target)
        changed = 0
        for name in self.NAMES:
            wanted, _ = renaming.rename_source_key(name)
            self.assertEqual(patterns.substitute(pattern, replacement, name) or name, wanted, (source, pattern))
            changed += wanted != name
        self.assertGreater(changed, 0, source)

    def test_lookarounds_become_patterns_without(self):
        self.same(r"^model(?!\.(language_model|visual))", "model.language_model")
        self.same(r"(?<!model\.)layer.", "model.layer.")
        self.same(r"(?<!model\.)encoder\.(layer)\.", r"model.encoder.\1.")

    def test_a_prefix_that_is_added_where_it_is_not(self):
        change = loading.PrefixChange(prefix_to_add="language_model", model_prefix="model")
        names = ["model.a", "model.language_model.a", "model.language_models.a", "model.", "language_model.a", "model"]
        rule, = conversions.renames_of([change], names)
        self.assertEqual(patterns.substitute(rule["pattern"], rule["replacement"], "model.norm.weight"),
                         "model.language_model.norm.weight")
        self.assertIsNone(patterns.substitute(rule["pattern"], rule["replacement"], "model.language_model.norm.weight"))

    def test_the_boundary_that_transformers_adds(self):
        pattern, replacement = patterns.to_re2(r".weight_g(?!\w)", ".original0")
        self.assertEqual(pattern, r".weight_g\b")
        self.assertEqual(patterns.substitute(pattern, replacement, "x.weight_g"), "x.original0")
        self.assertIsNone(patterns.substitute(pattern, replacement, "x.weight_g2"))

    def test_what_cannot_be_rewritten_is_refused_by_name(self):
        for pattern in (r"a(?=b)c", r"(a)\1", r"(?<!a|b)c", r"x(?!y.*)z", r"(?<![0-9]\.)c", r"a{1001}", r"(?>a)"):
            with self.assertRaisesRegex(ManifestError, re.escape(repr(pattern))):
                patterns.to_re2(pattern)

    def test_a_rule_that_differs_on_the_models_keys_is_refused(self):
        renaming = loading.WeightRenaming(r"(?<!model\.)layers", "x")
        conversions.renames_of([renaming], ["model.layers.0", "layers.0"])
        # transformers replaces the first text that looks the same, wherever it matched.
        first_text = loading.WeightRenaming(r"(?<!a\.)b", "x")
        with self.assertRaisesRegex(ManifestError, "in RE2 it would make"):
            conversions.renames_of([first_text], ["a.b.c.b"])

    def test_rules_of_a_submodel_keep_to_it(self):
        renaming = loading.WeightRenaming(r"old_(q|k)", r"new_\1")
        renaming.scope_prefix, renaming.base_model_prefix = "language_model", "model"
        rule, = conversions.renames_of([renaming], ["model.language_model.old_q.weight", "language_model.old_k.weight",
                                                    "vision.old_q.weight", "old_q.weight"])
        self.assertEqual(patterns.substitute(rule["pattern"], rule["replacement"], "language_model.a.old_q.weight"),
                         "language_model.a.new_q.weight")
        self.assertIsNone(patterns.substitute(rule["pattern"], rule["replacement"], "vision.old_q.weight"))


if __name__ == "__main__":
    unittest.main()
