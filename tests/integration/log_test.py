"""The log when nobody reads it, and signals that come early."""

import json
import os
import re
import signal
import subprocess
import threading
import unittest

import daemon
import metrics_page
import scenario_runs

CALLS = 2500


class PipedDaemon(daemon.Daemon):
    """Its standard error is a pipe that nobody reads before `read_log`."""

    def spawn(self, *flags):
        self.log.touch()
        self.reader, writer = os.pipe()
        try:
            return subprocess.Popen([daemon.BIN_DIR / "keyloadd", *flags], stdout=writer, stderr=writer)
        finally:
            os.close(writer)

    def fill_log(self):
        """From now on the pipe takes nothing."""
        writer = os.open(f"/proc/{self.process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(writer, b"\n")
        except BlockingIOError:
            os.close(writer)

    def read_log(self):
        with open(self.reader, "rb") as log:
            return log.read().decode()


class StalledLogTest(daemon.DaemonTest):
    def start(self, *flags, **options):
        started = PipedDaemon(self.directory, *flags, **options)
        self.addCleanup(started.stop)
        return started

    def test_a_reader_that_stops_holds_up_no_call_and_loses_no_audit(self):
        scenario = self.directory / "many.json"
        scenario.write_text(json.dumps({"about": "Calls that are audited, more than a pipe has room for.", "steps": [
            {"step": "call", "method": "CancelLoad", "request": {"load": "load-${n}"}, "times": CALLS,
             "expect": {"error": {"code": "NOT_FOUND", "reason": "LOAD_NOT_FOUND"}}}]}))
        mock = scenario_runs.play(self.daemon, scenario)
        self.assertEqual(mock.returncode, 0, mock.stdout + mock.stderr)
        self.succeed("health")
        self.assertEqual(self.daemon.stop(), 0, "nor does it keep the process")
        text = self.daemon.read_log()
        self.assertGreater(text.count("action=cancel"), 100, "what fits into the pipe")
        self.assertLess(text.count("action=cancel"), CALLS, "the pipe was full")

    def test_what_waited_is_written_when_the_reader_is_back(self):
        scenario = self.directory / "many.json"
        scenario.write_text(json.dumps({"about": "The same.", "steps": [
            {"step": "call", "method": "CancelLoad", "request": {"load": "load-${n}"}, "times": CALLS,
             "expect": {"error": {"code": "NOT_FOUND", "reason": "LOAD_NOT_FOUND"}}}]}))
        self.assertEqual(scenario_runs.play(self.daemon, scenario).returncode, 0)
        texts = []
        reader = threading.Thread(target=lambda: texts.append(self.daemon.read_log()))
        reader.start()
        self.assertEqual(self.daemon.stop(), 0)
        reader.join(timeout=60)
        self.assertEqual(texts[0].count("action=cancel"), CALLS)
        self.assertNotIn("log lines lost", texts[0])


class LostLinesTest(daemon.DaemonTest):
    flags = ("--metrics-listen", "127.0.0.1:0")

    def test_lost_lines_are_counted(self):
        values = metrics_page.series(metrics_page.text(self.daemon))
        for kind in ("log", "audit"):
            self.assertEqual(values[f'keyload_log_lines_lost_total{{kind="{kind}"}}'], 0)


class EarlySignalTest(daemon.DaemonTest):
    def test_a_hangup_while_libraries_are_set_up_does_not_end_the_daemon(self):
        address = f"unix:{self.directory}/early.sock"
        # The dynamic linker tells when it calls the first constructor of a library; the others are still to come.
        process = subprocess.Popen([daemon.BIN_DIR / "keyloadd", "--listen", address], stderr=subprocess.PIPE,
                                   env={**os.environ, "LD_DEBUG": "files"}, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        hung_up = False
        for line in process.stderr:
            if not hung_up and re.search(r"calling init: .*keyload|calling init: .*(grpc|protobuf|absl)", line):
                process.send_signal(signal.SIGHUP)
                hung_up = True
            if " reload changed=" in line:  # the signal was kept until somebody took it
                break
        self.assertTrue(hung_up)
        self.assertIsNone(process.poll(), "the signal ended it")


if __name__ == "__main__":
    unittest.main()
