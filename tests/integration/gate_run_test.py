"""`keyload check` in a build: exit codes, what it compared with, other checkpoints, baselines, and what machines read."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

import checkpoints
import daemon

KEYLOAD = daemon.BIN_DIR / "keyload"
DEPLOY = daemon.SOURCE_DIR / "deploy"
CONFIG = {"model_type": "no_such_type", "architectures": ["NoSuchForCausalLM"], "num_hidden_layers": 6, "vocab_size": 32,
          "tie_word_embeddings": True}


def model(layers=6, dtype="F32"):
    tensors = {"model.embed.weight": (dtype, [32, 16])}
    for layer in range(layers):
        for name, shape in (("q", [16, 16]), ("k", [16, 16]), ("up", [24, 16]), ("down", [16, 24])):
            tensors[f"model.layers.{layer}.{name}.weight"] = (dtype, shape)
        tensors[f"model.layers.{layer}.norm.weight"] = (dtype, [16])
    return tensors


def without(tensors, *prefixes):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


class GateRunTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-gate-run-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def write(self, name, tensors, config=CONFIG, shards=2):
        path = self.directory / name
        checkpoints.write_sharded(path, tensors, shards)
        if config is not None:
            (path / "config.json").write_text(json.dumps(config))
        return path

    def keyload(self, *arguments, **options):
        return subprocess.run([KEYLOAD, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120, check=False, **options)

    def check(self, *arguments, code=0):
        """The document of `keyload --json check`, which ends with `code`."""
        result = self.keyload("--json", "check", *arguments)
        self.assertEqual(result.returncode, code, result)
        return json.loads(result.stdout)

    def manifest(self, tensors):
        path = self.directory / "manifest.json"
        path.write_text(checkpoints.manifest(tensors))
        return path

    # What it compared with.

    def test_the_first_line_says_what_it_compared_with_and_the_last_the_verdict(self):
        whole = self.write("whole", model())
        base = self.write("base", model())
        manifest = self.manifest(model())
        for arguments, code, first, last in (
                ((), 7, f'nothing: {whole}/config.json: no template for model_type "no_such_type"', "nothing compared"),
                (("--expected", "checkpoint"), 0, "nothing: the checkpoint's own keys were asked for", "as asked"),
                (("--manifest", manifest), 0, "the manifest", "complete"),
                (("--like", base), 0, f"the keys of {base}", "complete")):
            with self.subTest(arguments=arguments):
                result = self.keyload("check", whole, *arguments)
                lines = result.stdout.splitlines()
                self.assertEqual((result.returncode, lines[0]), (code, f"compared with {first}"))
                self.assertTrue(lines[-1].startswith(f"verdict {last}"), lines[-1])

    def test_nothing_compared_says_why(self):
        for name, config, why in (("none", None, "there is no config.json"), ("untyped", {}, "there is no model_type"),
                                  ("unknown", CONFIG, "no template")):
            with self.subTest(name):
                report = self.check(self.write(name, model(), config), code=7)
                self.assertIn(why, report["comparedWith"])
                self.assertIn("--like DIR", report["verdict"])
        other = self.directory / "other"
        checkpoints.write_file(other / "adapter.safetensors", model())
        self.assertIn("another name", self.check(other, code=7)["comparedWith"])

    # Exit codes.

    def test_missing_keys_fail_without_a_limit(self):
        manifest = self.manifest(model())
        spoiled = self.write("spoiled", without(model(), "model.layers.2.q."))
        self.assertIn("1 missing", self.check(spoiled, "--manifest", manifest, code=1)["verdict"])
        self.check(spoiled, "--manifest", manifest, "--max-missing", 1)
        self.check(spoiled, "--manifest", manifest, "--report-only")
        more = self.write("more", model() | {"extra": ("F32", [1])})
        self.check(more, "--manifest", manifest)
        self.check(more, "--manifest", manifest, "--strict", code=1)
        self.check(more, "--manifest", manifest, "--strict", "--report-only")

    def test_errors_keep_their_code_though_only_a_report_is_wanted(self):
        self.assertEqual(self.check(self.directory / "nowhere", "--report-only", code=6)["exitCode"], 6)

    # Without a template.

    def test_a_layer_that_lacks_what_its_like_have(self):
        spoiled = self.write("spoiled", without(model(), "model.layers.3.up."))
        report = self.check(spoiled, code=1)
        self.assertEqual([(finding["rule"], finding["names"]) for finding in report["findings"]],
                         [("alike", ["model.layers.3.up.weight"])])
        self.assertEqual(report["warnings"], [report["findings"][0]["message"]])
        self.check(spoiled, "--expected", "checkpoint")
        self.check(spoiled, "--expected", "checkpoint", "--strict", code=1)
        self.check(spoiled, "--max-missing", 1, code=7)

    def test_a_layer_that_is_left_out_and_those_that_lack_at_the_end(self):
        for name, tensors, rules in (("gap", without(model(), "model.layers.2."), ["gap"]),
                                     ("end", model(4), ["layers"]),
                                     ("embedding", without(model(), "model.embed."), ["vocabulary"])):
            with self.subTest(name):
                report = self.check(self.write(name, tensors), code=1)
                self.assertEqual([finding["rule"] for finding in report["findings"]], rules)

    def test_bytes_that_the_index_says_are_a_remark(self):
        path = self.write("stale", model())
        index = path / "model.safetensors.index.json"
        document = json.loads(index.read_text())
        stored = sum(checkpoints.tensor_bytes(*tensor) for tensor in model().values())
        for size, rules in ((stored + 5, ["total_size"]), (stored, []), (1, []), (None, []), ("many", []), (1.5, [])):
            index.write_text(json.dumps({**document, "metadata": {"total_size": size}}))
            report = self.check(path, code=7)
            self.assertEqual([finding["rule"] for finding in report["findings"]], rules, size)

    def test_a_selection_is_not_looked_at(self):
        spoiled = self.write("spoiled", without(model(), "model.layers.3.up."))
        self.assertEqual(self.check(spoiled, "--include", "model.layers.*", code=7)["findings"], [])

    def test_a_broken_config_is_no_reason_for_the_rules_to_fail(self):
        path = self.write("broken", model())
        (path / "config.json").write_text("{")
        self.check(path, "--expected", "checkpoint")

    # Another checkpoint.

    def test_like_another_checkpoint(self):
        base = self.write("base", model())
        tuned = self.write("tuned", without(model(), "model.layers.1.k.") | {"model.layers.0.q.weight": ("F32", [8, 16])})
        report = self.check(tuned, "--like", base, code=1)
        self.assertEqual(report["expectedFrom"], "LIKE")
        self.assertEqual(report["missingKeys"], ["model.layers.1.k.weight"])
        self.assertEqual([key["key"] for key in report["mismatchedKeys"]], ["model.layers.0.q.weight"])
        halved = self.write("halved", model(dtype="BF16"))
        report = self.check(halved, "--like", base)
        self.assertEqual([(finding["rule"], finding["count"]) for finding in report["findings"]],
                         [("dtype", len(model()))])

    def test_like_needs_a_checkpoint(self):
        base = self.write("base", model())
        error = self.check(base, "--like", self.directory / "nowhere", code=6)["error"]
        self.assertIn("the checkpoint to compare with", error["message"])
        self.check(base, "--like", base, "--manifest", self.manifest(model()), code=2)
        self.check(base, "--expected", "like", code=2)
        self.check(base, "--expected", "config", "--like", base, code=6)

    def test_like_takes_a_repository_of_the_cache(self):
        base = self.directory / "models--org--base"
        checkpoints.write_sharded(base / "snapshots/5f1d", model(), 2)
        self.check(self.write("tuned", model()), "--like", base)

    def test_diff(self):
        a = self.write("a", model())
        b = self.write("b", without(model(), "model.layers.1.k.") |
                       {"head": ("F32", [2]), "model.layers.0.q.weight": ("F32", [8, 16]),
                        "model.layers.4.q.weight": ("BF16", [16, 16])})
        result = self.keyload("diff", a, b)
        self.assertEqual(result.returncode, 1, result)
        for words in (f"A {a}\nB {b}\n", "only in A (1)\n  model.layers.1.k.weight\n", "only in B (1)\n  head\n",
                      "model.layers.0.q.weight: [16, 16] and [8, 16]", "1 key is BF16 here and F32 in"):
            self.assertIn(words, result.stdout)
        document = json.loads(self.keyload("--json", "diff", a, b).stdout)
        self.assertEqual((document["onlyInA"], document["onlyInB"], document["otherShape"]), (1, 1, 1))
        self.assertEqual(self.keyload("diff", a, a).returncode, 0)
        self.assertEqual(self.keyload("diff", a, self.directory / "nowhere").returncode, 6)
        self.assertEqual(self.keyload("diff", a).returncode, 2)

    # Several directories, baselines.

    def test_several_directories_end_with_the_worst_code(self):
        manifest = self.manifest(model())
        whole, spoiled = self.write("whole", model()), self.write("spoiled", without(model(), "model.layers.2.q."))
        nowhere = self.directory / "nowhere"
        document = self.check(whole, spoiled, "--manifest", manifest, code=1)
        self.assertEqual([check["exitCode"] for check in document["checks"]], [0, 1])
        document = self.check(spoiled, nowhere, whole, "--manifest", manifest, code=6)
        self.assertEqual([check["exitCode"] for check in document["checks"]], [1, 6, 0])
        text = self.keyload("check", whole, nowhere, "--manifest", manifest).stdout
        self.assertIn(f"== {whole}\ncompared with the manifest\n", text)
        self.assertIn(f"exit 0  {whole}: complete\n", text)

    def test_a_baseline_knows_what_was_there(self):
        manifest = self.manifest(model())
        spoiled = self.write("spoiled", without(model(), "model.layers.2.q."))
        known = self.directory / "known.json"
        known.write_text(self.keyload("--json", "check", spoiled, "--manifest", manifest).stdout)
        self.assertEqual(self.check(spoiled, "--manifest", manifest, "--strict", "--baseline", known)["verdict"],
                         "complete; 1 known from the baseline")
        worse = self.write("worse", without(model(), "model.layers.2."))
        self.assertIn("4 missing; 1 known", self.check(worse, "--manifest", manifest, "--baseline", known, code=1)["verdict"])
        self.check(worse, "--baseline", manifest, code=2)

    def test_a_baseline_knows_findings_too(self):
        spoiled = self.write("spoiled", without(model(), "model.layers.2.q."))
        known = self.directory / "known.json"
        known.write_text(self.keyload("--json", "check", spoiled, spoiled).stdout)
        self.check(spoiled, "--baseline", known, code=7)
        self.check(spoiled, "--baseline", known, "--expected", "checkpoint", "--strict")
        other = self.write("other", without(model(), "model.layers.4.q."))
        self.check(other, "--baseline", known, code=1)

    # What machines read.

    def test_absent_files_are_a_list(self):
        path = self.write("half", model(), shards=3)
        gone = sorted(path.glob("*.safetensors"))[1:]
        for file in gone:
            file.unlink()
        self.assertEqual(self.check(path, code=6)["absentFiles"], [file.name for file in gone])
        self.assertEqual(self.check(self.write("whole", model()), code=7)["absentFiles"], [])

    def test_junit_and_annotations(self):
        manifest = self.manifest(model())
        whole, spoiled = self.write("whole", model()), self.write("spoiled", without(model(), "model.layers.2.q."))
        junit = self.directory / "junit.xml"
        result = self.keyload("check", whole, spoiled, self.directory / "nowhere", "--manifest", manifest, "--junit", junit,
                              "--annotations")
        suites = list(xml.etree.ElementTree.parse(junit).getroot())
        self.assertEqual([(suite.get("failures"), suite.get("errors")) for suite in suites],
                         [("0", "0"), ("1", "0"), ("0", "1")])
        self.assertEqual(suites[1].find(".//failure").text, "model.layers.2.q.weight")
        lines = [line for line in result.stderr.splitlines() if line.startswith("::")]
        self.assertEqual(len(lines), 2, result.stderr)
        self.assertTrue(lines[0].startswith(f"::error title=keyload check {spoiled}::not complete: 1 missing"), lines[0])
        self.assertIn("CHECKPOINT_NOT_FOUND", lines[1])

    def test_a_file_that_cannot_be_written_is_a_usage_error(self):
        path = self.write("whole", model())
        self.check(path, "--junit", self.directory / "nowhere/junit.xml", code=2)

    def test_the_action_runs_the_gate_and_hands_on_its_code(self):
        """Its script with a docker that runs the command here."""
        script = (DEPLOY / "github/action.yml").read_text().split("      run: |\n")[1].replace("\n        ", "\n")
        tools = self.directory / "tools"
        tools.mkdir()
        docker = tools / "docker"
        docker.write_text(f'#!/bin/bash\nwhile [[ $1 != check ]]; do shift; done\nexec "{KEYLOAD}" "$@"\n')
        docker.chmod(0o755)
        self.write("a", model())
        self.write("b", without(model(), "model.layers.2.q."))
        outputs = self.directory / "outputs"
        for directories, options, code in (("a", "--expected checkpoint", 0), ("a", "", 7), ("a b", "", 1)):
            outputs.write_text("")
            result = subprocess.run(
                ["bash", "-eo", "pipefail", "-c", script], cwd=self.directory, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, timeout=120, check=False,
                env={"PATH": f"{tools}:{os.environ['PATH']}", "KEYLOAD_DIRECTORIES": directories, "KEYLOAD_OPTIONS": options,
                     "KEYLOAD_IMAGE": "keyload:latest", "KEYLOAD_JUNIT": "junit.xml", "GITHUB_OUTPUT": str(outputs)})
            self.assertEqual((result.returncode, outputs.read_text()), (code, f"exit-code={code}\n"), result)
            self.assertTrue((self.directory / "junit.xml").exists())

    def test_the_gitlab_job_runs_the_gate(self):
        lines = (DEPLOY / "gitlab/keyload.gitlab-ci.yml").read_text().split("  script:\n")[1].split("  artifacts:")[0]
        script = "\n".join(line.removeprefix("    - ") for line in lines.splitlines())
        self.write("a", model())
        for options, code in (("--expected checkpoint", 0), ("", 7)):
            result = subprocess.run(
                ["bash", "-e", "-c", script], cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                timeout=120, check=False,
                env={"PATH": f"{daemon.BIN_DIR}:{os.environ['PATH']}", "KEYLOAD_DIRECTORIES": "a", "KEYLOAD_OPTIONS": options})
            self.assertEqual(result.returncode, code, result)
            self.assertTrue((self.directory / "keyload-junit.xml").exists())


if __name__ == "__main__":
    unittest.main()
