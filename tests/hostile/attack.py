"""What an attack is, and what it may use.

An attack is a function with a decorator. It gets a Node, prepares its files and messages, and returns a function that
does the harm and returns what the daemon answered: a list of outcomes (see wire.Client). Only the second function is
measured. All of them are in ATTACKS, in the order in which they were written.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from concurrent import futures

import wire

# How much the daemon's resident memory may grow while an attack runs.
PEAK_GROWTH_MIB = 640
REMAINDER_MIB = 32
DEADLINE_SECONDS = 3  # of calls that would take minutes
HOLD_SECONDS = 2.5  # how long streams and connections stay while the probes run


def hold(seconds=HOLD_SECONDS):
    """Leaves what the attack has opened as it is, for other clients to notice."""
    time.sleep(seconds)


def run_threads(threads):
    """Starts all of `threads` and waits until all have ended."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclasses.dataclass(frozen=True)
class Attack:
    name: str
    group: str
    act: Callable
    answers: frozenset       # outcomes of which each call must have one
    memory: bool             # breaks memory: run under both kinds of limit
    keeps_mib: int           # what the daemon may rightly keep afterwards, beside REMAINDER_MIB
    peak_mib: int
    beyond: str              # why the daemon cannot withstand it; empty: it must

    @property
    def what(self):
        return self.act.__doc__.strip()


ATTACKS = []
# A daemon may always say that it has no memory for the request, that the caller has too many of them, or that the time
# of the call is over.
ALWAYS = {"MEMORY_EXHAUSTED", "LOAD_QUEUE_FULL", "DEADLINE_EXCEEDED"}


def attack(*answers, memory=False, keeps_mib=0, peak_mib=PEAK_GROWTH_MIB, beyond=""):
    def register(act):
        group = act.__module__.removeprefix("attacks_")
        ATTACKS.append(Attack(act.__name__, group, act, frozenset(answers) | ALWAYS, memory, keeps_mib, peak_mib,
                              beyond))
        return act

    return register


class Node:
    """The daemon under attack, as an attacker sees it who comes over TCP; the probes use the Unix socket.

    So the daemon can tell the attacker from its other clients. Callers on Unix sockets are one peer to it.
    """

    def __init__(self, daemon, models, scratch):
        self.daemon, self.models, self.scratch = daemon, models, scratch
        self.exits = contextlib.ExitStack()

    def fixture(self, name, build):
        """The path `name` below the model root; `build(path)` makes it when it is needed first."""
        path = self.models / name
        if not path.exists():
            build(path)
        return path

    def client(self):
        """A new connection, closed after the attack."""
        client = wire.Client(f"127.0.0.1:{self.daemon.tcp_port}")
        self.exits.callback(client.close)
        return client

    def each(self, count, call):
        """call(client, i) for i below `count`, all at the same time, each with a connection of its own."""
        clients = [self.client() for _ in range(count)]
        with futures.ThreadPoolExecutor(count) as threads:
            return list(threads.map(call, clients, range(count)))

    def plan_each(self, count, *arguments, timeout=DEADLINE_SECONDS, **fields):
        """`count` plans of the same spec at a time."""
        load_spec = wire.spec(*arguments, **fields)
        return lambda: self.each(count, lambda client, _: client.plan(load_spec, timeout))

    def lazily(self, path, model, **fields):
        """Has `path` loaded lazily as `model` until the attack is over."""
        client = self.client()
        outcome = client.load(wire.spec(path, model=model, residency="RESIDENCY_LAZY", if_exists="IF_EXISTS_REPLACE",
                                        **fields), 60)
        if outcome not in ("COMPLETE", "INCOMPLETE"):
            raise AssertionError(f"{model} was not loaded: {outcome}")
        self.exits.callback(client.unload, model, 5)

    def close(self):
        self.exits.close()
