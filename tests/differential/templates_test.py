"""Expected keys from config.json beside transformers' models of the same configuration: names and shapes are equal."""

import json
import pathlib
import unittest

import peers  # noqa: I001 (sets the environment before the packages are imported)
import families
import tally
from keyload.manifest import make_manifest

CASES = pathlib.Path(peers.daemon.SOURCE_DIR) / "tests" / "data" / "expected" / "cases.json"
FULL_SIZES = ("Llama-3-8B", "Mixtral-8x7B", "Qwen3-30B-A3B", "DeepSeek-V3")


def by_template(directory):
    """{key: shape} that the server derives for a directory without weights."""
    daemon = peers.shared_daemon()
    loaded = daemon.command("--json", "load", "t", "--from", directory, "--allow-no-weights", "--expected", "config",
                            "--device-map", "disk")
    assert loaded.code == 0, loaded
    assert loaded.json["expectedFrom"] == "CONFIG", loaded
    keys = daemon.command("--json", "keys", "t").json["keys"]
    assert daemon.command("--json", "unload", "t").code == 0
    return {key["key"]: key["shape"] for key in keys}


def by_transformers(directory):
    tensors = make_manifest(directory, as_stored=True)["tensors"]
    return {tensor["name"]: [int(size) for size in tensor["shape"]] for tensor in tensors
            if tensor["kind"] != "KIND_NON_PERSISTENT_BUFFER"}


class TemplatesTest(unittest.TestCase):
    maxDiff = 2000

    def assert_equal_keys(self, fields):
        directory = peers.new_directory()
        (directory / "config.json").write_text(json.dumps(fields))
        derived, built = by_template(directory), by_transformers(directory)
        self.assertEqual(sorted(derived.items()), sorted(built.items()))

    def test_every_family_with_its_head_and_without(self):
        for family in families.FAMILIES:
            for kind in (family.head, family.base):
                for tied in (False, True):
                    with self.subTest(family=family.name, kind=kind, tied=tied):
                        config = family.make_config(tied, architectures=[kind])
                        self.assert_equal_keys(config.to_dict())
            tally.architectures.add(family.name)

    def test_published_sizes(self):
        cases = {case["name"]: case["config"] for case in json.loads(CASES.read_text())}
        for name in FULL_SIZES:
            with self.subTest(name):
                self.assert_equal_keys(cases[name])


if __name__ == "__main__":
    unittest.main()
