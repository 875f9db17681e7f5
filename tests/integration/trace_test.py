"""Who asked for what, in the daemon's log: the audit lines, and the caller's `traceparent` in every line of its load."""

import collections
import json
import os
import shutil
import signal
import time
import unittest
from unittest import mock

import checkpoints
import daemon

# Takes the memory and copies nothing.
RESERVING = ("--device-map", "cuda:0", "--lazy", "--reserve", "now")
LINE_SECONDS = 30


def traceparent(number):
    return f"00-{number:032x}-{number:016x}-01"


class CallerTest(daemon.DaemonTest):
    """A daemon whose log is read."""

    flags = ("--simulate-gpus", "1x24MiB", "--log-format", "json")

    def setUp(self):
        super().setUp()
        self.source = self.models / "big"
        checkpoints.write_sharded(self.source, {f"w.{i}": ("F32", [1024, 1024]) for i in range(4)}, 2)

    def start_as(self, trace, *arguments):
        with mock.patch.dict(os.environ, TRACEPARENT=trace):
            return self.daemon.popen("--json", *arguments)

    def run_as(self, number, *arguments, code=0):
        """Runs `keyload --json ...` with a `traceparent` of its own; returns the document."""
        return self.finish(self.start_as(traceparent(number), *arguments), code)

    def finish(self, client, code):
        out, err = client.communicate(timeout=60)
        self.assertEqual(client.returncode, code, out + err)
        return json.loads(out)

    def load(self, model, *options):
        return ("load", model, "--from", self.source, *RESERVING, *options)

    def wait_until_it_waits(self, model):
        while True:
            for load in self.succeed("loads")["loads"]:
                if load["model"] == model and (load["progress"] or {}).get("phase") == "memory":
                    return load["load"]

    def lines(self):
        return [json.loads(line) for line in self.daemon.log.read_text().splitlines() if line.startswith("{")]

    def audits(self):
        return [line for line in self.lines() if line["event"] == "audit"]

    def audits_of(self, number):
        return [line for line in self.audits() if line.get("traceparent") == traceparent(number)]

    def wait_for_audit(self, number):
        deadline = time.monotonic() + LINE_SECONDS
        while not self.audits_of(number):
            self.assertLess(time.monotonic(), deadline, f"no audit line of caller {number}")

    def assert_audits(self, expected):
        """`expected`: {number of the caller: what its one audit line says besides who it was}."""
        self.assertEqual(set(collections.Counter(line.get("traceparent") for line in self.audits()).values()), {1},
                         "one line per request")
        for number, fields in expected.items():
            line, = self.audits_of(number)
            self.assertEqual(line["level"], "info")
            self.assertEqual((line["caller"], line["peer"][:5]), ("socket", "unix:"), line)
            said = {name: value for name, value in line.items()
                    if name not in ("ts", "level", "event", "caller", "peer", "traceparent")}
            self.assertEqual(said, fields, f"caller {number}")
        self.assertEqual(len(self.audits()), len(expected))


class TraceTest(CallerTest):
    def test_every_line_of_a_request_names_its_caller(self):
        first = self.run_as(1, *self.load("first"))["load"]
        starter = self.start_as(traceparent(2), *self.load("second", "--wait-memory", "60"))
        second = self.wait_until_it_waits("second")
        joined = self.run_as(3, *self.load("second", "--wait-memory", "60"), "--detach")
        self.assertEqual((joined["load"], joined["joined"]), (second, True))
        self.wait_for_audit(3)
        self.run_as(4, "cancel", second)
        self.finish(starter, 5)
        materialized = self.run_as(5, "materialize", "first")["load"]
        self.run_as(6, "evict", "first")
        again = self.run_as(7, *self.load("first"))["load"]
        self.assertEqual(again, first, "the resident model answers")
        self.run_as(8, "unload", "first")
        self.run_as(9, "unload", "first")
        self.run_as(10, "map", "set", "mine", "--device-map", "cpu")
        self.run_as(11, "map", "rm", "mine")
        self.run_as(12, "load", "x", "--from", "/", code=4)
        self.run_as(13, *self.load("not a name"), code=6)
        self.run_as(14, "materialize", "first", code=6)
        self.run_as(15, "evict", "first", code=6)
        self.run_as(16, "map", "rm", "mine", code=6)
        self.run_as(17, "cancel", "load-999999", code=6)
        holder = self.run_as(18, *self.load("holder"))["load"]
        detached = self.run_as(19, *self.load("third", "--wait-memory", "60"), "--detach")["load"]
        self.wait_for_audit(19)
        self.run_as(20, "unload", "holder")
        self.succeed("wait", detached)

        def refused(code, reason, **fields):
            return {**fields, "code": code, "reason": reason}
        lost = ("NOT_FOUND", "MODEL_NOT_FOUND")
        self.assert_audits({
            1: {"action": "load", "model": "first", "load": first, "outcome": "COMPLETE"},
            2: {"action": "load", "model": "second", "load": second, "outcome": "CANCELLED", "code": "CANCELLED",
                "reason": "LOAD_CANCELLED"},
            3: {"action": "load", "model": "second", "load": second, "outcome": "LEFT"},
            4: {"action": "cancel", "model": "second", "load": second, "outcome": "OK"},
            5: {"action": "materialize", "model": "first", "load": materialized, "outcome": "COMPLETE"},
            6: {"action": "evict", "model": "first", "outcome": "OK"},
            7: {"action": "load", "model": "first", "load": first, "outcome": "COMPLETE"},
            8: {"action": "unload", "model": "first", "outcome": "UNLOADED"},
            9: {"action": "unload", "model": "first", "outcome": "NOT_LOADED"},
            10: {"action": "set_device_map", "map": "mine", "outcome": "OK"},
            11: {"action": "delete_device_map", "map": "mine", "outcome": "OK"},
            12: refused("PERMISSION_DENIED", "PATH_NOT_ALLOWED", action="load", model="x", load="load-000004"),
            13: refused("INVALID_ARGUMENT", "BAD_REQUEST", action="load", model="not a name"),
            14: refused(*lost, action="materialize", model="first"),
            15: refused(*lost, action="evict", model="first"),
            16: refused("NOT_FOUND", "DEVICE_MAP_NOT_FOUND", action="delete_device_map", map="mine"),
            17: refused("NOT_FOUND", "LOAD_NOT_FOUND", action="cancel", load="load-999999"),
            18: {"action": "load", "model": "holder", "load": holder, "outcome": "COMPLETE"},
            19: {"action": "load", "model": "third", "load": detached, "outcome": "LEFT"},
            20: {"action": "unload", "model": "holder", "outcome": "UNLOADED"},
        })
        starters = {first: 1, second: 2, materialized: 5, holder: 18, detached: 19}
        own_lines = [line for line in self.lines() if line["event"] != "audit" and {"load", "model"} & set(line)]
        self.assertGreaterEqual({line["event"] for line in own_lines}, {"load", "evict", "unload"})
        for line in own_lines:
            self.assertIn("traceparent", line)
            if line["event"] == "load" and line["load"] in starters:
                self.assertEqual(line["traceparent"], traceparent(starters[line["load"]]), line)

    def test_a_client_that_is_interrupted_has_asked_twice(self):
        self.run_as(1, *self.load("first"))
        client = self.start_as(traceparent(2), *self.load("second", "--wait-memory", "60"))
        second = self.wait_until_it_waits("second")
        client.send_signal(signal.SIGINT)
        self.finish(client, 5)
        asked = [(line["action"], line["load"], line.get("outcome")) for line in self.audits_of(2)]
        self.assertEqual(asked, [("cancel", second, "OK"), ("load", second, "CANCELLED")])

    def test_what_is_no_traceparent_is_ignored(self):
        good = traceparent(1)
        for trace in ("", "garbage", good.replace("1-", "A-", 1), good.replace("1", "0"), "ff" + good[2:],
                      good + "-more", "01" + good[2:] + "more", good[:-1], "x" * 300, "a\nb"):
            self.finish(self.start_as(trace, "unload", "m"), 0)
        self.assertEqual({line.get("traceparent") for line in self.audits()}, {None})
        self.finish(self.start_as("01" + good[2:] + "-more", "unload", "m"), 0)
        self.assertEqual(self.audits()[-1]["traceparent"], "01" + good[2:], "what a later version adds is not known")


class QuietLogTest(CallerTest):
    """The same lines of audit when the log says errors only, and what is said of state that cannot be written."""

    flags = (*CallerTest.flags, "--log-level", "error")

    def start(self, *flags):
        self.state = self.directory / "state"
        return super().start(*flags, "--state-dir", str(self.state))

    def test_only_the_audit_and_errors_are_said(self):
        shutil.rmtree(self.state / "loads")
        load = self.run_as(1, *self.load("first"))["load"]
        shutil.rmtree(self.state / "models")
        self.run_as(2, *self.load("first", "--if-exists", "replace"), code=6)  # its memory is not free
        self.run_as(3, "unload", "first")
        failed = [line for line in self.lines() if line["event"] != "audit"]
        self.assertEqual({line["event"] for line in failed}, {"state not kept"})
        self.assertIn(load, failed[0]["reason"])
        self.assertEqual([line["traceparent"] for line in failed], [traceparent(1), traceparent(2)])
        self.assertEqual([line["action"] for line in self.audits()], ["load", "load", "unload"])


if __name__ == "__main__":
    unittest.main()
