"""scripts/build.sh: what is configured after which calls. CMake configures for real and compiles nothing."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CMAKE = """#!/bin/bash
for argument in "$@"; do
  if [[ $argument == --build ]]; then echo "$@" >>"{log}"; echo "[1/1] Building CXX object a.dir/a.cc.o"; exit 0; fi
done
exec {cmake} "$@"
"""


class BuildTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="keyload-build-")
        self.addCleanup(folder.cleanup)
        self.clone = pathlib.Path(folder.name) / "clone"
        self.clone.mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in (".git", "build"):
                (self.clone / entry.name).symlink_to(entry)
        programs = pathlib.Path(folder.name) / "bin"
        programs.mkdir()
        self.built = pathlib.Path(folder.name) / "built"
        cmake = subprocess.run(["which", "cmake"], capture_output=True, text=True, check=True).stdout.strip()
        (programs / "cmake").write_text(CMAKE.format(log=self.built, cmake=cmake), encoding="ascii")
        (programs / "cmake").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def build(self, *arguments):
        run = subprocess.run(["bash", str(self.clone / "scripts" / "build.sh"), *arguments], env=self.environment, cwd="/",
                             capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return run.stdout

    def names_of_tests(self):
        listing = subprocess.run(["ctest", "--test-dir", str(self.clone / "build" / "release"), "-N"], capture_output=True,
                                 text=True, check=True).stdout
        return set(re.findall(r"Test +#\d+: (\S+)", listing))

    def cached(self, name):
        text = (self.clone / "build" / "release" / "CMakeCache.txt").read_text(encoding="utf-8")
        return re.search(rf"^{name}:\w+=(.*)$", text, re.MULTILINE).group(1)

    def test_tests_after_the_demo_have_all_names_and_the_demo_takes_none_away(self):
        self.build("--demo")
        self.assertEqual(self.names_of_tests(), set())
        self.assertEqual(self.cached("KEYLOAD_WITH_TORCH"), "OFF")
        self.build()
        after_demo = self.names_of_tests()
        for name in ("differential.peers", "integration.gate", "architecture.proto_style", "container", "scripts.build",
                     "tensor_test_NOT_BUILT", "device_contract_test_NOT_BUILT",
                     "consumer.builds_and_runs_against_the_installed_package"):
            self.assertIn(name, after_demo)
        self.assertEqual(self.cached("KEYLOAD_WITH_TORCH"), "ON")
        self.build("--demo")
        self.assertEqual(self.names_of_tests(), after_demo)
        self.assertEqual(self.cached("KEYLOAD_WITH_TORCH"), "ON")
        self.assertEqual(self.built.read_text(encoding="ascii").splitlines(),
                         ["--build build/release --target keyloadd keyload", "--build build/release",
                          "--build build/release --target keyloadd keyload"])

    def test_a_newer_preset_replaces_what_an_older_one_left(self):
        self.build("--demo")
        folder = self.clone / "build" / "release"
        subprocess.run(["cmake", "-DCMAKE_UNITY_BUILD=ON", str(folder)], capture_output=True, check=True)
        self.assertEqual(self.cached("CMAKE_UNITY_BUILD"), "ON")
        os.utime(folder / "build.ninja", (0, 0))
        self.build("--demo")
        self.assertEqual(self.cached("CMAKE_UNITY_BUILD"), "OFF")

    def test_what_the_tests_need_and_lack_is_named(self):
        command = ["cmake", "--preset", "release", "-B", str(self.clone / "lacking"), "-DKEYLOAD_WITH_TORCH=OFF",
                   f"-DKEYLOAD_PYTHON_PREFIX={self.clone}/nothing"]
        run = subprocess.run(command, cwd=self.clone, capture_output=True, text=True, check=False)
        self.assertNotEqual(run.returncode, 0)
        for lacking in ("the Python package transformers in", "buf, of the PyPI package buf-bin", "-DKEYLOAD_PEERS=OFF"):
            self.assertIn(lacking, run.stderr)

    def test_tests_that_are_left_out_are_noted(self):
        command = ["cmake", "--preset", "release", "-B", str(self.clone / "without"), "-DKEYLOAD_WITH_TORCH=OFF",
                   "-DKEYLOAD_PEERS=OFF"]
        subprocess.run(command, cwd=self.clone, capture_output=True, text=True, check=True)
        left_out = (self.clone / "without" / "left_out.txt").read_text(encoding="utf-8")
        self.assertIn("differential: all differential tests", left_out)
        self.assertIn("integration: all integration tests", left_out)


if __name__ == "__main__":
    unittest.main()
