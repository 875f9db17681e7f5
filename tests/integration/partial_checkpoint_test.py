"""Checkpoints as people have them: shards that are not there, a hub's cache, files that are something else."""

import unittest

import checkpoints
import daemon

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00ff\nsize 4202889352\n"


class PartialCheckpointTest(daemon.DaemonTest):
    def setUp(self):
        super().setUp()
        self.tensors = {f"model.layers.{layer}.{part}.weight": ("F32", [4, 4])
                        for layer in range(4) for part in ("attn", "mlp")}
        self.source = self.models / "layers"
        checkpoints.write_sharded(self.source, self.tensors, 4)  # a shard for each layer

    def remove(self, *shards):
        for shard in shards:
            (self.source / f"model-{shard:05d}-of-00004.safetensors").unlink()

    def test_a_rank_loads_its_own_layers_and_reads_them(self):
        self.remove(3, 4)
        report = self.succeed("load", "rank", "--from", self.source, "--include", "model.layers.{0,1}.*")
        self.assertEqual(report["outcome"], "COMPLETE")
        keys = report["keys"]
        self.assertEqual((keys["expected"], keys["loaded"], keys["notSelected"], keys["missing"]), (8, 4, 4, 0))
        self.assertIn("2 of its 4 shards are absent, with 4 keys", str(report["warnings"]))
        self.succeed("read", "rank", "model.layers.1.mlp.weight", "--out", self.directory / "out.safetensors")
        self.refused(6, "KEY_NOT_RESIDENT", "read", "rank", "model.layers.3.mlp.weight", "--out",
                     self.directory / "none.safetensors")
        self.succeed("load", "rank", "--from", self.source, "--include", "model.layers.{0,1}.*")
        self.succeed("unload", "rank")

    def test_a_lazy_load_warms_and_materializes_what_is_there(self):
        self.remove(1)
        names = self.directory / "names.txt"
        names.write_bytes(b"\xef\xbb\xbfmodel.layers.1.attn.weight\r\nmodel.layers.2.attn.weight\r\n")
        self.succeed("load", "lazy", "--from", self.source, "--keys", names, "--lazy")
        self.assertEqual(self.succeed("materialize", "lazy")["keys"]["loaded"], 2)
        self.succeed("load", "warm", "--from", self.source, "--keys", names, "--warm")
        self.assertEqual(self.keyload("show", "warm").json["keys"]["notSelected"], 6)

    def test_what_is_selected_and_absent_is_named(self):
        self.remove(3, 4)
        error = self.refused(6, "CHECKPOINT_NOT_FOUND", "load", "rank", "--from", self.source, "--include",
                             "model.layers.{1,2}.*")
        self.assertIn("1 of 4 shards is absent and needed: model-00003-of-00004.safetensors", error["message"])
        error = self.refused(6, "CHECKPOINT_NOT_FOUND", "load", "whole", "--from", self.source)
        self.assertEqual(error["metadata"]["absent"],
                         "model-00003-of-00004.safetensors, model-00004-of-00004.safetensors")
        self.assertEqual(error["metadata"]["absent_count"], "2")

    def test_shards_that_come_later_extend_the_model(self):
        moved = self.directory / "later.safetensors"
        manifest = self.directory / "manifest.json"
        manifest.write_text(checkpoints.manifest(self.tensors))
        later = self.source / "model-00004-of-00004.safetensors"
        later.rename(moved)
        load = ["load", "rank", "--from", self.source, "--manifest", manifest]
        self.succeed(*load, "--include", "model.layers.0.*")
        moved.rename(later)
        report = self.succeed(*load, "--include", "model.layers.{0,3}.*", "--if-exists", "extend")
        self.assertEqual(report["keys"]["missing"], 0)
        self.succeed("read", "rank", "model.layers.3.mlp.weight", "--out", self.directory / "out.safetensors")

    def test_a_repository_of_a_hubs_cache_is_loaded(self):
        repository = self.models / "models--org--name"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text("abc\n")
        checkpoints.write_sharded(repository / "snapshots/abc", self.tensors, 2)
        self.assertEqual(self.succeed("load", "hub", "--from", repository)["keys"]["loaded"], 8)

    def test_pointers_of_git_lfs_are_named(self):
        for shard in (1, 3):
            (self.source / f"model-{shard:05d}-of-00004.safetensors").write_text(POINTER)
        error = self.refused(6, "CHECKPOINT_CORRUPT", "load", "m", "--from", self.source)
        self.assertIn("2 of 4 shards are no safetensors", error["message"])
        self.assertIn("git lfs pull", error["message"])

    def test_a_key_list_that_is_something_else_is_named(self):
        names = self.directory / "names.txt"
        for content, said in (("model.a\n".encode("utf-16"), "UTF-16"), (b'{"weight_map": {}}', "JSON"),
                              (b"<!doctype html>", "HTML")):
            names.write_bytes(content)
            result = self.keyload("load", "m", "--from", self.source, "--keys", names)
            self.assertEqual(result.code, 2, result)
            self.assertIn(said, result.out + result.err)


if __name__ == "__main__":
    unittest.main()
