"""Every attack of the table against one daemon under a limit, with a model of 1 GiB: it answers, serves and stays.

KEYLOAD_LIMIT says which limit: "cgroup" runs all attacks, "address_space" those that are after memory. A daemon that an
attack ends is replaced, so that each attack has a result of its own; the last tests fail then.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import unittest

import measure

LIMIT = os.environ.get("KEYLOAD_LIMIT", "cgroup")
PATIENCE_SECONDS = 40


class CorpusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-hostile-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory)
        (cls.directory / "models").mkdir()
        cls.started, cls.limit = 0, LIMIT
        cls.target = cls.start()
        cls.addClassCleanup(lambda: cls.target.close() if cls.target.daemon.alive else cls.target.kill())

    @classmethod
    def start(cls):
        cls.started += 1
        directory = cls.directory / f"daemon-{cls.started}"
        try:
            return measure.Target(directory, cls.directory / "models", cls.limit)
        except LookupError as e:
            print(f"{e}: the address space is limited instead", file=sys.stderr)
            cls.limit = "address_space"
            return measure.Target(directory, cls.directory / "models", cls.limit)

    def carry_out(self, attack):
        cls = type(self)
        if not cls.target.daemon.alive:
            cls.target.kill()
            cls.target = cls.start()
        result = cls.target.carry_out(attack, PATIENCE_SECONDS)
        waits = ", ".join(f"{probe} {measure.median(w):.2f}/{max(w):.2f} s" for probe, w in result.waits.items() if w)
        print(f"{attack.name}: {result.seconds:.1f} s, peak {result.growth_mib:+.0f} MiB, left "
              f"{result.remainder_mib:+.0f} MiB, {waits}, {dict(result.answers)}", file=sys.stderr)
        problems = result.problems()
        if problems:
            self.fail(f"{' '.join(attack.what.split())}:\n  " + "\n  ".join(problems) +
                      f"\nanswers: {dict(result.answers)}\nthe end of the log:\n{self.log_end()}")

    def log_end(self):
        return self.target.daemon.log.read_text(errors="replace")[-2000:]

    def test_the_model_is_intact(self):
        """After all attacks each tensor has the bytes that were written."""
        self.assertEqual(self.target.tensors_differ(), [])

    def test_one_process_served_all_the_time(self):
        self.assertEqual(self.started, 1, "the daemon ended and was started again")
        self.assertTrue(self.target.daemon.alive, self.log_end())


def add_tests():
    names = []
    for attack in measure.ATTACKS:
        if LIMIT == "address_space" and not attack.memory:
            continue
        names.append(f"test_{attack.name}")
        setattr(CorpusTest, names[-1], lambda self, attack=attack: self.carry_out(attack))
    return [*names, "test_the_model_is_intact", "test_one_process_served_all_the_time"]


ORDER = add_tests()


def load_tests(loader, _tests, _pattern):
    wanted = loader.getTestCaseNames(CorpusTest)
    return unittest.TestSuite(CorpusTest(name) for name in ORDER if name in wanted)


if __name__ == "__main__":
    unittest.main()
