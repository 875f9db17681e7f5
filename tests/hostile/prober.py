"""Other clients of the daemon while it is attacked: `keyload health`, `show` and a small load, each again and again.

A process of its own, so that the attacker's work does not count as the daemon's. Usage: prober.py KEYLOAD ADDRESS MODEL
SMALL_CHECKPOINT. Commands come on standard input, one a line:

  start     probes of all three kinds run until they are stopped
  mark      remembers which probes have begun
  settle N  answers true when a probe of each kind that began after the mark has been answered, false after N seconds
  stop      answers with every sample since start

Each answer is one line of JSON. A sample is [kind, seconds, exit code]; a probe that had no answer when it was stopped
has the seconds that it had waited and no code.
"""

import json
import subprocess
import sys
import threading
import time

PAUSE_SECONDS = 0.15
GIVE_UP = "120s"
KINDS = ("health", "show", "load")


class Prober:
    def __init__(self, keyload, address, model, small):
        self.base = [keyload, "--server", address, "--timeout", GIVE_UP]
        self.model, self.small = model, small
        self.changed = threading.Condition()
        self.samples, self.running, self.threads = [], False, []
        self.in_flight = {}  # kind: (process, start)
        self.marked = {}
        self.rounds = dict.fromkeys(KINDS, 0)  # probes begun
        self.answered = dict.fromkeys(KINDS, 0)  # the round of the last one that was answered well

    def start(self):
        self.samples, self.running = [], True
        self.threads = [threading.Thread(target=self.repeat, args=(kind,)) for kind in KINDS]
        for thread in self.threads:
            thread.start()

    def repeat(self, kind):
        commands = {"health": [["health"]], "show": [["show", self.model]],
                    "load": [["load", "probe", "--from", self.small], ["unload", "probe"]]}[kind]
        while self.running:
            for command in commands:
                self.probe(kind, command, counted=command[0] != "unload")
            with self.changed:
                self.changed.wait_for(lambda: not self.running, PAUSE_SECONDS)

    def probe(self, kind, command, counted):
        with self.changed:
            if not self.running:
                return
            self.rounds[kind] += counted
            begun = self.rounds[kind]
            start = time.monotonic()
            process = subprocess.Popen(self.base + command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.in_flight[kind] = process
        code = process.wait()
        seconds = time.monotonic() - start
        with self.changed:
            if counted:
                self.samples.append([kind, seconds, None if not self.running and code < 0 else code])
                if code == 0:
                    self.answered[kind] = begun
            self.changed.notify_all()

    def mark(self):
        with self.changed:
            self.marked = dict(self.rounds)

    def settle(self, seconds):
        with self.changed:
            return self.changed.wait_for(lambda: all(self.answered[k] > self.marked[k] for k in KINDS), seconds)

    def stop(self):
        with self.changed:
            self.running = False
            for process in self.in_flight.values():
                process.kill()
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()
        self.in_flight = {}
        return self.samples


def main():
    prober = Prober(*sys.argv[1:])
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "settle":
            answer = prober.settle(float(arguments[0]))
        else:
            answer = getattr(prober, command)()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
