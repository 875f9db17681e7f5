"""scripts/bootstrap.sh with stand-ins for apt-get, sudo, dpkg-query and pip: what it would install, as whom, and what it says."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOBODY = 65534
TOOLS = ("awk", "bash", "cat", "cut", "dirname", "env", "find", "grep", "mkdir", "mv", "printf", "rm", "sed", "sha256sum",
         "sort", "touch", "install")
LOGGED = '#!/bin/bash\necho "{name} $*" >>"$TEST_LOG"\n'
SUDO = LOGGED.format(name="sudo") + 'exec "$@"\n'
APT = LOGGED.format(name="apt-get") + 'echo "After this operation, 123 MB of additional disk space will be used."\n'
# Every package that is asked for is there, if the file is.
DPKG = '#!/bin/bash\n[[ -f $TEST_INSTALLED ]] || exit 1\nshift 2\nprintf "ii  %s\\n" "$@"\n'
# `pip download` leaves wheels where they belong; `pip install` needs them there.
PYTHON = LOGGED.format(name="python") + """[[ "$*" == *" download "* ]] || exit 0
while [[ $1 != -d ]]; do shift; done
for requirement in "$@"; do
  [[ $requirement == *==* ]] || continue
  name=${requirement%%==*}
  touch "$2/${name//[-.]/_}-${requirement##*==}-py3-none-any.whl"
done
"""


class BootstrapTest(unittest.TestCase):
    def setUp(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="keyload-bootstrap-"))
        self.addCleanup(shutil.rmtree, folder)
        folder.chmod(0o777)
        self.clone, self.programs, self.log = folder / "clone", folder / "bin", folder / "log"
        self.installed, self.os_release, self.wheels = folder / "installed", folder / "os-release", folder / "wheels"
        (self.clone / "scripts").mkdir(parents=True)
        (self.clone / "tests" / "differential").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "bootstrap.sh", self.clone / "scripts")
        shutil.copy(ROOT / "tests" / "differential" / "requirements.txt", self.clone / "tests" / "differential")
        (self.clone / ".venv" / "bin").mkdir(parents=True)
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool))
        self.add_program("apt-get", APT)
        self.add_program("dpkg-query", DPKG)
        self.add_program("sudo", SUDO)
        self.add_program("python", PYTHON, self.clone / ".venv" / "bin")
        self.os_release.write_text('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', encoding="ascii")
        for path in (self.clone, self.clone / ".venv"):
            path.chmod(0o777)

    def add_program(self, name, text, folder=None):
        path = (folder or self.programs) / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o755)

    def bootstrap(self, profile="demo", code=0, as_nobody=True):
        environment = {"PATH": str(self.programs), "HOME": "/nonexistent", "TEST_LOG": str(self.log),
                       "TEST_INSTALLED": str(self.installed), "KEYLOAD_OS_RELEASE": str(self.os_release),
                       "KEYLOAD_WHEELS": str(self.wheels)}
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_nobody and os.geteuid() == 0 else {}
        run = subprocess.run([str(self.programs / "bash"), str(self.clone / "scripts" / "bootstrap.sh"), profile], env=environment,
                             cwd="/", capture_output=True, text=True, check=False, **identity)
        self.assertEqual(run.returncode, code, run.stdout + run.stderr)
        return run

    def calls(self):
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return text.splitlines()

    def test_a_user_installs_packages_with_sudo_and_the_rest_without(self):
        output = self.bootstrap().stdout
        calls = self.calls()
        self.assertEqual(calls[0], "sudo apt-get update -qq")
        installs = [call for call in calls if call.startswith("sudo env") and " install " in call]
        self.assertEqual(len(installs), 1, calls)
        self.assertIn(" g++ ", installs[0])
        self.assertFalse([call for call in calls if call.startswith("sudo") and ("python" in call.split()[1:2])], calls)
        self.assertRegex(output, r"bootstrap: installing \d+ Debian packages .*\(123 MB on disk")

    def test_a_second_run_installs_nothing_and_says_nothing(self):
        for profile in ("demo", "test", "demo"):
            self.bootstrap(profile)
            self.installed.touch()
            self.calls()
            again = self.bootstrap(profile)
            self.assertEqual((again.stdout, again.stderr, self.calls()), ("", "", []), profile)

    def test_size_and_time_are_said_before_the_download(self):
        self.installed.touch()
        output = self.bootstrap("test").stdout
        self.assertRegex(output, r"installing \d+ Python packages \(4\.\d GB in \.venv after a download of 2\.\d GB, .* minutes\)")

    def test_the_demo_installs_no_libtorch(self):
        self.installed.touch()
        self.bootstrap()
        self.assertFalse([call for call in self.calls() if re.search(r"\btorch==", call)])

    def test_wheels_that_a_first_clone_fetched_are_not_fetched_again(self):
        self.installed.touch()
        self.assertIn("; downloading 2", self.bootstrap().stdout)
        self.calls()
        for stamp in (self.clone / ".venv").glob("keyload-*"):
            stamp.unlink()
        self.assertIn(f"2 of 2 Python packages are in {self.wheels}; downloading 0", self.bootstrap().stdout)
        self.assertFalse([call for call in self.calls() if " download " in call])

    def test_without_sudo_the_error_names_what_is_missing(self):
        (self.programs / "sudo").unlink()
        run = self.bootstrap(code=1)
        self.assertRegex(run.stderr, r"^bootstrap: run this as root, or install sudo: .*\bninja-build\b")
        self.assertEqual(self.calls(), [])

    def test_another_system_is_one_sentence_and_changes_nothing(self):
        self.os_release.write_text('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n', encoding="ascii")
        run = self.bootstrap(code=1)
        self.assertTrue(run.stderr.startswith("bootstrap: this is Ubuntu 24.04.1 LTS, and keyload is built on Debian 12 or 13; "))
        self.assertEqual(len(run.stderr.splitlines()), 1)
        self.assertEqual(self.calls(), [])

    def test_debian_13_is_taken(self):
        self.os_release.write_text('ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n', encoding="ascii")
        self.bootstrap()

    def test_an_unknown_profile_is_wrong_usage(self):
        self.assertIn("usage: scripts/bootstrap.sh", self.bootstrap("all", code=2).stderr)


if __name__ == "__main__":
    unittest.main()
