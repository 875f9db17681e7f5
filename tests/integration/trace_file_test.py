"""What `--trace FILE.json` writes, read by the rules of the Trace Event format and compared with the report."""

import json
import numbers
import signal
import unittest

import checkpoints
import daemon

SLACK_US = 0.001  # times are measured in nanoseconds


def check_format(document):
    """The rules that viewers rely on; returns the complete events by track, and the tracks' names."""
    assert set(document) >= {"traceEvents", "displayTimeUnit"}, document.keys()
    assert document["displayTimeUnit"] in ("ms", "ns")
    assert isinstance(document["otherData"], dict)
    slices, names, processes = {}, {}, []
    for event in document["traceEvents"]:
        assert isinstance(event["ph"], str) and isinstance(event["name"], str) and event["name"], event
        assert type(event["pid"]) is int and type(event["tid"]) is int, event
        if event["ph"] == "M":
            assert isinstance(event["args"]["name"], str), event
            if event["name"] == "process_name":
                processes.append(event["pid"])
            else:
                assert event["name"] == "thread_name", event
                assert event["tid"] not in names, event
                names[event["tid"]] = event["args"]["name"]
            continue
        assert event["ph"] == "X", event
        for field in ("ts", "dur"):
            assert isinstance(event[field], numbers.Real) and not isinstance(event[field], bool), event
            assert event[field] >= 0, event
        assert isinstance(event["cat"], str) and isinstance(event["args"], dict), event
        slices.setdefault(event["tid"], []).append(event)
    assert len(processes) == 1, processes
    assert set(names) == set(slices), (names, slices)
    for track in slices.values():
        check_nesting(track)
    return slices, names


def check_nesting(track):
    """Events of one track begin in order, and each lies within the one that is open or after it."""
    open_ends, last = [], 0
    for event in track:
        begin, end = event["ts"], event["ts"] + event["dur"]
        assert begin >= last, event
        last = begin
        while open_ends and open_ends[-1] <= begin + SLACK_US and len(open_ends) > 1:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + SLACK_US, (event, open_ends)
        open_ends.append(end)


class TraceFileTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "1x24MiB")

    def setUp(self):
        super().setUp()
        self.source = self.models / "big"
        checkpoints.write_sharded(self.source, {f"w.{i}": ("F32", [1024, 1024]) for i in range(4)}, 2)
        self.file = self.directory / "trace.json"
        self.load = ("load", "big", "--from", self.source, "--device-map", "cuda:0", "--trace", self.file)

    def assert_trace(self, report):
        """The file is a trace of just this report; returns the names of its tracks."""
        document = json.loads(self.file.read_text())
        slices, names = check_format(document)
        tracks = {names[tid]: events for tid, events in slices.items()}
        self.assertEqual(document["otherData"], {name: report[name] for name in ("load", "model", "outcome", "startTime")})
        whole, *phases = tracks["load"]
        self.assertEqual((whole["name"], whole["ts"]), ("load", 0))
        self.assertAlmostEqual(whole["dur"], report["totalSeconds"] * 1e6, delta=SLACK_US)
        for name in ("load", "model", "outcome", "keys", "bytes"):
            self.assertEqual(whole["args"][name], report[name])
        self.assertEqual(whole["args"].get("error"), report["error"])
        self.assert_times([(e["name"], e["ts"], e["dur"]) for e in phases],
                          [(p["name"], p["startSeconds"], p["seconds"]) for p in report["phases"]])
        self.assertAlmostEqual(sum(e["dur"] for e in phases), whole["dur"], delta=SLACK_US * len(phases))
        transfer = next((p["startSeconds"] for p in report["phases"] if p["name"] == "transfer"), 0)
        sums = {"busy: " + busy["name"]: busy for busy in report["busy"]}
        sums.update({"shard: " + shard["file"]: shard for shard in report["shards"] if shard["engine"]})
        self.assertEqual(set(tracks), {"load", *sums})
        for name, figures in sums.items():
            event, = tracks[name]
            self.assert_times([(event["name"], event["ts"], event["dur"])], [(name, transfer, figures["seconds"])])
            self.assertIn("a sum over threads", event["args"].pop("note"))
            expected = {key: value for key, value in figures.items() if key != "seconds"} if "file" in figures else {}
            self.assertEqual(event["args"], expected)
        return set(tracks)

    def assert_times(self, events, expected):
        self.assertEqual([event[0] for event in events], [phase[0] for phase in expected])
        for (name, start, duration), (_, seconds, length) in zip(events, expected):
            self.assertAlmostEqual(start, seconds * 1e6, delta=SLACK_US, msg=name)
            self.assertAlmostEqual(duration, length * 1e6, delta=SLACK_US, msg=name)

    def test_a_load_that_is_complete(self):
        tracks = self.assert_trace(self.succeed(*self.load))
        self.assertGreaterEqual(tracks, {"busy: read", "busy: copy"})
        self.assertEqual(len([name for name in tracks if name.startswith("shard: ")]), 2)
        self.assertEqual(oct(self.file.stat().st_mode & 0o777), "0o644")
        self.assertEqual([path.name for path in self.directory.glob("trace.json*")], ["trace.json"])

    def test_loads_that_are_rejected_or_fail_or_are_cancelled(self):
        manifest = self.directory / "manifest.json"
        manifest.write_text(checkpoints.manifest({"absent": ("F32", [1])}))
        result = self.keyload(*self.load, "--manifest", manifest, "--strict")
        self.assertEqual(result.code, 1, result)
        self.assert_trace(result.json)
        result = self.keyload(*self.load, "--max-memory", "0=1MiB", "--device-map", "cuda:0")
        self.assertNotEqual(result.code, 0)
        self.succeed("load", "first", "--from", self.source, "--device-map", "cuda:0", "--lazy", "--reserve", "now")
        result = self.keyload(*self.load)
        self.assertEqual((result.code, result.json["outcome"]), (6, "FAILED"), result)
        self.assert_trace(result.json)
        client = self.daemon.popen("--json", *self.load, "--wait-memory", "60")
        while not any((load["progress"] or {}).get("phase") == "memory" for load in self.succeed("loads")["loads"]):
            pass  # each turn is a call to the daemon
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=60)
        self.assertEqual((client.returncode, json.loads(out)["outcome"]), (5, "CANCELLED"), err)
        self.assert_trace(json.loads(out))

    def test_materialize_and_wait_write_one_too(self):
        self.succeed("load", "big", "--from", self.source, "--device-map", "cuda:0", "--lazy")
        report = self.succeed("materialize", "big", "--trace", self.file)
        self.assertIn("busy: copy", self.assert_trace(report))
        accepted = self.succeed("load", "other", "--from", self.source, "--device-map", "cpu", "--detach")
        self.assert_trace(self.succeed("wait", accepted["load"], "--trace", self.file))
        result = self.keyload(*self.load, "--detach")
        self.assertEqual((result.code, "keyload wait" in result.error["message"]), (2, True), result)

    def test_a_file_that_cannot_be_written(self):
        folder = self.directory / "no-such-folder" / "trace.json"
        for command in (("load", "big", "--from", self.source), ("materialize", "big"), ("wait", "load-000001")):
            for trace, why in ((folder, "No such file or directory"), (self.directory, "no regular file")):
                result = self.keyload(*command, "--trace", trace)
                self.assertEqual(result.code, 2, result)
                self.assertIn("--trace", result.out + result.err)
                self.assertIn(why, result.out + result.err)
        self.assertEqual(self.succeed("loads")["loads"], [], "nothing was asked of the server")

    def test_a_file_that_cannot_be_written_any_more(self):
        self.succeed("load", "first", "--from", self.source, "--device-map", "cuda:0", "--lazy", "--reserve", "now")
        folder = self.directory / "folder"
        folder.mkdir()
        client = self.daemon.popen("--json", *self.load[:-1], folder / "trace.json", "--wait-memory", "60")
        while not any((load["progress"] or {}).get("phase") == "memory" for load in self.succeed("loads")["loads"]):
            pass  # each turn is a call to the daemon
        folder.rmdir()
        self.succeed("unload", "first")
        out, err = client.communicate(timeout=60)
        self.assertEqual((client.returncode, json.loads(out)["outcome"]), (6, "COMPLETE"), err)
        self.assertIn(f"--trace: {folder}", err)

    def test_a_load_without_a_report(self):
        for command in (("load", "big", "--from", self.models / "absent"), ("materialize", "absent"), ("wait", "load-000009")):
            result = self.keyload(*command, "--trace", self.file)
            self.assertNotEqual(result.code, 0)
            self.assertIn(f"keyload: --trace: there is no report, {self.file} was not written", result.err)
            self.assertFalse(self.file.exists())


if __name__ == "__main__":
    unittest.main()
