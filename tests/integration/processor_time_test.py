"""Requests that would take processor time or memory without end: they end, and others are answered meanwhile."""

import json
import resource
import time
import unittest

import checkpoints
import daemon

ANSWER_SECONDS = 2  # within which quick calls are answered meanwhile
MIB = 1 << 20


def hostile_globs():
    """60 globs of 1 KB, within the limits of a selection."""
    return [("".join(f"*{chr(97 + (i + j) % 26)}?" for j in range(400)))[:1000] for i in range(60)]


class ProcessorTimeTest(daemon.DaemonTest):
    def setUp(self):
        super().setUp()
        self.source = self.models / "large"
        checkpoints.write_sharded(self.source, checkpoints.large_model(), 4, checkpoints.write_sparse_file)

    def answer_seconds(self):
        """How long the slower one of two quick calls took."""
        slowest = 0
        for call in (("show", "big"), ("health",)):
            start = time.monotonic()
            result = self.keyload(*call)
            self.assertEqual(result.code, 0, result)
            slowest = max(slowest, time.monotonic() - start)
        return slowest

    def test_quick_calls_are_answered_while_hostile_globs_are_matched_and_these_end_at_their_deadline(self):
        self.succeed("load", "big", "--from", self.source, "--lazy")
        globs = [argument for glob in hostile_globs() for argument in ("--include", glob)]
        start = time.monotonic()
        listings = [self.daemon.popen("--json", "--timeout", "3s", "keys", "big", *globs) for _ in range(4)]
        slowest = 0
        while any(listing.poll() is None for listing in listings) and time.monotonic() < start + 30:
            slowest = max(slowest, self.answer_seconds())
        for listing in listings:
            listing.communicate(timeout=30)
            self.assertIn(listing.returncode, (0, 5))
        took = time.monotonic() - start
        print(f"4 listings: {took:.1f} s, slowest quick call {slowest:.2f} s", flush=True)
        self.assertLess(slowest, ANSWER_SECONDS)
        self.assertLess(took, 15)
        self.assertLess(self.answer_seconds(), ANSWER_SECONDS, "no thread is left at them")

    def test_patterns_that_are_large_together_are_refused(self):
        manifest = self.directory / "patterns.json"
        patterns = [f"(?i)[\\pL\\pN]{{3}}x{i}" for i in range(9000)]
        manifest.write_text(checkpoints.manifest({"a": ("F32", [1])}, ignoreMissing=patterns))
        start = time.monotonic()
        result = self.keyload("plan", "x", "--from", self.source, "--manifest", manifest)
        self.assertEqual(result.error["reason"], "PATTERN_INVALID", result)
        self.assertIn("instructions", result.error["message"])
        self.assertLess(time.monotonic() - start, 10)

    def test_the_bounds_are_among_the_limits(self):
        limits = self.succeed("info")["limits"]
        for name in ("selection_steps", "rule_instructions", "rule_steps", "load_callers", "load_request_ids"):
            self.assertGreater(limits[name], 0)


class LimitedDaemon(daemon.Daemon):
    """A daemon that may map only so many bytes."""

    def __init__(self, directory, limit_bytes, *flags):
        self.limit_bytes = limit_bytes
        super().__init__(directory, *flags)

    def _join_cgroup(self):
        resource.setrlimit(resource.RLIMIT_AS, (self.limit_bytes, self.limit_bytes))


class AddressSpaceTest(daemon.DaemonTest):
    """std::bad_alloc, wherever it is thrown, costs one load."""

    def mapped_bytes(self):
        with open(f"/proc/{self.daemon.process.pid}/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmPeak:"))

    def test_a_lazy_load_without_memory_for_it_fails_and_the_daemon_lives(self):
        source = self.models / "large"
        checkpoints.write_sharded(source, checkpoints.large_model(), 4, checkpoints.write_sparse_file)
        checkpoints.write_file(self.models / "small" / "model.safetensors", checkpoints.small_model())
        base = self.mapped_bytes()
        outcomes = {}
        self.daemon.stop()
        for more in (24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 384):
            limited = LimitedDaemon(self.directory, base + more * MIB, *self.flags)
            try:
                result = limited.command("--json", "load", "big", "--from", source, "--lazy")
                outcomes[more] = "loaded" if result.code == 0 else result.error["reason"]
                if "no memory to parse" in result.out:  # a parser says so itself
                    outcomes[more] = "MEMORY_EXHAUSTED"
                self.assertIn(outcomes[more], ("loaded", "MEMORY_EXHAUSTED"), result)
                self.assertIsNone(limited.process.poll())
                self.assertEqual(limited.command("health").code, 0)
                again = limited.command("--json", "load", "small", "--from", self.models / "small", "--lazy")
                self.assertEqual(again.code, 0, again)
                self.assertEqual(limited.command("unload", "big").code, 0)
            finally:
                self.assertEqual(limited.stop(), 0, outcomes)
        print(json.dumps(outcomes), flush=True)
        self.assertIn("MEMORY_EXHAUSTED", outcomes.values())
        self.assertIn("loaded", outcomes.values())


if __name__ == "__main__":
    unittest.main()
