"""Carries out one attack against a daemon and measures what other clients and the machine notice of it."""

import collections
import dataclasses
import hashlib
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time

import attack as attack_module
import attacks_checkpoints
import attacks_connections
import attacks_requests
import attacks_streams
import checkpoints
import daemon
import limits

ATTACKS = attack_module.ATTACKS
FLAGS = ("--simulate-gpus", "2x256MiB@8MiB")
IDLE_SECONDS = 2
MOST_WAIT_SECONDS = 2
MODEL_TENSORS, TENSOR_MIB = 16, 64  # 1 GiB in all


@dataclasses.dataclass
class Result:
    attack: attack_module.Attack
    answers: collections.Counter
    end: str                # how the daemon ended; None while it runs
    growth_mib: float       # the most that was resident over what was before
    remainder_mib: float    # what is resident afterwards over what was before
    waits: dict             # probe: [seconds]
    failures: dict          # probe: how many had no good answer
    seconds: float          # the attack and until the daemon answered again
    recovered: bool         # every probe was answered again in time
    error: str              # what failed in the attack itself

    def problems(self):
        """What an operator would complain about."""
        found = [f"the attack itself failed: {self.error}"] if self.error else []
        if self.end:
            return [*found, f"the daemon ended: {self.end}"]
        if not self.recovered:
            found.append("the daemon did not answer again")
        for probe, waits in self.waits.items():
            if waits and max(waits) > MOST_WAIT_SECONDS:
                found.append(f"{probe} waited {max(waits):.1f} s")
            if self.failures[probe]:
                found.append(f"{self.failures[probe]} of {len(waits)} {probe} failed")
        if unexpected := set(self.answers) - self.attack.answers:
            found.append(f"answered {', '.join(sorted(unexpected))}")
        if self.growth_mib > self.attack.peak_mib:
            found.append(f"took {self.growth_mib:.0f} MiB, at most {self.attack.peak_mib} are allowed")
        if self.remainder_mib > attack_module.REMAINDER_MIB + self.attack.keeps_mib:
            found.append(f"kept {self.remainder_mib:.0f} MiB")
        return found


class Prober:
    """prober.py as a process."""

    def __init__(self, address, small):
        self.process = subprocess.Popen(
            [sys.executable, "-B", pathlib.Path(__file__).with_name("prober.py"), daemon.BIN_DIR / "keyload", address,
             "big", str(small)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Target:
    """A daemon that serves a model of 1 GiB as "big", and its other clients."""

    def __init__(self, directory, models, limit, **options):
        self.models = pathlib.Path(models)
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.small = self._checkpoint("small", lambda p: checkpoints.write_sharded(p, checkpoints.small_model(), 2))
        self.big = self._checkpoint("big", write_big)
        self.daemon = limits.LimitedDaemon(self.directory, self.models, *FLAGS, limit=limit, **options)
        self.prober = Prober(self.daemon.address, self.small)
        result = self.daemon.command("load", "big", "--from", self.big, "--copy")
        if result.code != 0:
            raise AssertionError(f"the model was not loaded: {result}")

    def _checkpoint(self, name, build):
        path = self.models / name
        if not path.exists():
            build(path)
        return path

    def watch_idle(self):
        """What the probes wait while nobody attacks."""
        self.prober.ask("start")
        time.sleep(IDLE_SECONDS)
        return by_probe(self._samples(self._recovers(30)))

    def _samples(self, recovered):
        """The probes' samples; those that ran when they were stopped count if they were what did not come back."""
        return [sample for sample in self.prober.ask("stop") if sample[2] is not None or not recovered]

    def carry_out(self, attack, patience):
        """Carries out `attack`; waits for at most `patience` seconds until it is over and the daemon answers."""
        scratch = self.models / f"scratch-{attack.name}"
        scratch.mkdir()
        node = attack_module.Node(self.daemon, self.models, scratch)
        answers, error = collections.Counter(), []
        try:
            act = attack.act(node)
            before = self.daemon.resident_mib()
            self.daemon.reset_peak()
            self.prober.ask("start")
            start = time.monotonic()

            def run():
                try:
                    answers.update(act())
                except Exception as e:  # a defect of the attack, or a daemon that is gone
                    error.append(f"{type(e).__name__}: {e}"[:300])

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            peak = before  # read all the time: a process that was killed has none any more
            while thread.is_alive() and self.daemon.alive and time.monotonic() - start < patience:
                thread.join(0.05)
                peak = max(peak, self.daemon.peak_mib())
            recovered = self._recovers(max(patience - (time.monotonic() - start), 5))
            seconds = time.monotonic() - start
            samples = self._samples(recovered)
            peak = max(peak, self.daemon.peak_mib())
            over = not thread.is_alive()
        finally:
            node.close()
            shutil.rmtree(scratch, ignore_errors=True)
        if self.daemon.alive and not over:
            error.append("the attack did not end in time")
        remainder = self._settle_memory(before + attack_module.REMAINDER_MIB + attack.keeps_mib) - before
        end = self._end()
        waits = by_probe(samples)
        failures = {probe: sum(1 for p, _, code in samples if p == probe and code != 0) for probe in waits}
        return Result(attack, answers, end, peak - before, remainder, waits, failures, seconds, recovered,
                      "" if end else "; ".join(error))

    def _recovers(self, seconds):
        """Waits until each probe is answered again; False after `seconds`, or if the daemon is gone."""
        deadline = time.monotonic() + seconds
        self.prober.ask("mark")
        while self.daemon.alive and time.monotonic() < deadline:
            if self.prober.ask("settle", 0.5):
                return True
        return False

    def _end(self):
        if not self.daemon.alive:
            return self.daemon.end()
        return None

    def _settle_memory(self, wanted_mib, seconds=5):
        deadline = time.monotonic() + seconds
        while (mib := self.daemon.resident_mib()) > wanted_mib and time.monotonic() < deadline:
            time.sleep(0.1)
        return mib

    def tensors_differ(self):
        """The names of the model's tensors whose bytes `keyload read` does not give as they were written."""
        wrong = []
        for i in range(MODEL_TENSORS):
            out = self.directory / "read.safetensors"
            result = self.daemon.command("read", "big", f"w.{i}", "--out", out)
            if result.code != 0 or digest(out.read_bytes()[-(TENSOR_MIB << 20):]) != digest(big_tensor(i)):
                wrong.append(f"w.{i}")
            out.unlink(missing_ok=True)
        return wrong

    def close(self):
        """Stops the daemon; returns its exit code."""
        self.prober.close()
        return self.daemon.stop()

    def kill(self):
        self.daemon.kill()
        self.prober.close()


def by_probe(samples):
    waits = {}
    for probe, seconds, _ in samples:
        waits.setdefault(probe, []).append(seconds)
    return waits


def big_tensor(i):
    return random.Random(i).randbytes(1 << 20) * TENSOR_MIB


def digest(data):
    return hashlib.sha256(data).hexdigest()


def write_big(path):
    path.mkdir()
    tensors = {f"w.{i}": ("U8", [TENSOR_MIB << 20]) for i in range(MODEL_TENSORS)}
    with open(path / "model.safetensors", "wb") as file:
        file.write(checkpoints.header(tensors)[0])
        for i in range(MODEL_TENSORS):
            file.write(big_tensor(i))


def median(values):
    return statistics.median(values) if values else float("nan")
