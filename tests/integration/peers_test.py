"""What callers cannot use up: connections, and memory for answers that they do not take."""

import json
import pathlib
import resource
import subprocess
import sys
import time
import unittest

import checkpoints
import daemon
import raw_http2

MIB = 1 << 20


def start_line(log):
    """The fields of the line `start` of a log in JSON."""
    for line in log.read_text().splitlines():
        fields = json.loads(line)
        if fields["event"] == "start":
            return fields
    raise AssertionError("the daemon has not started")


def resident_bytes(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS in /proc/PID/status")


class FewDescriptors(daemon.Daemon):
    """A daemon that may have 256 descriptors, as after `ulimit -n 256`."""

    def _join_cgroup(self):
        super()._join_cgroup()
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


class IdleConnectionsTest(daemon.DaemonTest):
    """Connections that do nothing."""

    flags = ("--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--log-format", "json")

    def start(self, *flags, **options):
        running = FewDescriptors(self.directory, *flags, **options)
        self.addCleanup(self._stop, running)
        return running

    def setUp(self):
        super().setUp()
        started = start_line(self.daemon.log)
        self.tcp = [address for address in started["listen"].split(",") if not address.startswith("unix:")][0]
        self.health = started["health_listen"]

    def connect(self, count):
        """Connections over TCP that have said no more than hello; the daemon may have closed them."""
        clients = []
        for _ in range(count):
            try:
                clients.append(raw_http2.UnreadClient(self.tcp))
            except ConnectionError:
                continue
            self.addCleanup(clients[-1].close)
        return clients

    def at(self, address, *arguments):
        command = [daemon.BIN_DIR / "keyload", "--server", address, "--json", *arguments]
        process = subprocess.run(command, capture_output=True, text=True, timeout=daemon.COMMAND_SECONDS)
        return daemon.Result(process.returncode, process.stdout, process.stderr)

    def test_400_over_tcp_leave_the_unix_socket_and_the_health_port_alone(self):
        self.connect(400)
        start = time.monotonic()
        self.succeed("health")
        self.succeed("list")
        result = self.at(self.health, "health")
        self.assertEqual(result.code, 0, result)
        self.assertLess(time.monotonic() - start, 20)
        refused = [json.loads(line) for line in self.daemon.log.read_text().splitlines() if "connections refused" in line]
        self.assertGreater(len(refused), 0)
        self.assertEqual((refused[0]["peer"], refused[0]["address"]), ("127.0.0.1", self.tcp))

    def test_those_that_have_ended_make_room_again(self):
        for client in self.connect(400):
            client.close()
        deadline = time.monotonic() + 60
        while (result := self.at(self.tcp, "list")).code != 0:
            self.assertLess(time.monotonic(), deadline, result)


class UnreadStreamsTest(daemon.DaemonTest):
    """Streams whose client takes nothing."""

    flags = ("--simulate-gpus", "2x1GiB", "--send-memory", "64MiB")
    STREAMS = 400

    def grown(self, method, request):
        """How much memory the daemon takes for streams that are not read."""
        before = resident_bytes(self.daemon.process)
        for number in range(self.STREAMS):
            if number % 100 == 0:
                client = raw_http2.UnreadClient(self.daemon.address)
                self.addCleanup(client.close)
            client.call(method, request)
        # A call that comes later and is answered says that those before it have come; then until nothing changes.
        sizes = [resident_bytes(self.daemon.process)]
        while len(sizes) < 5 or max(sizes[-5:]) - min(sizes[-5:]) > MIB:
            self.succeed("list")
            sizes.append(resident_bytes(self.daemon.process))
        grown = max(sizes) - before
        print(f"{self.STREAMS} unread {method}: {grown / MIB:.0f} MiB", file=sys.stderr)
        return grown

    def test_400_lists_of_keys_cost_little(self):
        source = self.models / "many"
        checkpoints.write_file(source / "model.safetensors",
                               {f"layers.{i}.a_name_of_usual_length.weight": ("U8", [1]) for i in range(90_000)})
        self.succeed("load", "many", "--from", source, "--lazy")
        self.assertLess(self.grown("ListKeys", b"\x0a\x04many"), 100 * MIB)

    def test_400_reads_of_tensors_cost_little(self):
        source = self.models / "large"
        checkpoints.write_file(source / "model.safetensors", {"weight": ("U8", [16 * MIB])})
        self.succeed("load", "large", "--from", source)
        self.assertLess(self.grown("ReadTensors", b"\x0a\x05large"), 100 * MIB)


class DocumentsTest(daemon.DaemonTest):
    """Documents are charged what they take in memory."""

    flags = ("--simulate-gpus", "2x1GiB")

    def test_a_long_key_list_costs_little_more_than_its_bytes(self):
        source = self.models / "small"
        checkpoints.write_file(source / "model.safetensors", checkpoints.small_model())
        self.succeed("load", "small", "--from", source)
        keys = self.directory / "keys"
        keys.write_text("".join(f"{i:06x}\n" for i in range(2_500_000)))  # 17.5 MB
        before = resident_bytes(self.daemon.process)
        self.keyload("evict", "small", "--keys", keys)
        grown = resident_bytes(self.daemon.process) - before
        print(f"a key list of {keys.stat().st_size / MIB:.0f} MiB: {grown / MIB:.0f} MiB", file=sys.stderr)
        self.assertLess(grown, 100 * MIB)

    def test_a_key_list_that_is_not_utf8_is_refused(self):
        source = self.models / "small"
        checkpoints.write_file(source / "model.safetensors", checkpoints.small_model())
        keys = self.directory / "keys"
        keys.write_bytes(b"a\nb\xff\n" + b"".join(b"%d\n" % i for i in range(20_000)))  # more than a request carries itself
        error = self.refused(6, "BAD_REQUEST", "load", "small", "--from", source, "--keys", keys)
        self.assertIn("line 2", error["message"])


if __name__ == "__main__":
    unittest.main()
