"""Attacks that need a daemon of their own: few descriptors, or a restart."""

import pathlib
import resource
import shutil
import tempfile
import unittest

import attack
import checkpoints
import http2
import limits
import wire

DESCRIPTORS, CONNECTIONS = 256, 400
ROOM_MIB = (160, 128, 96, 80, 72, 64, 56, 48, 40, 32)  # of address space, for a load that needs some 100 MiB


class OwnDaemonTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-hostile-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.models = self.directory / "models"
        self.models.mkdir()
        self.small = self.models / "small"
        checkpoints.write_sharded(self.small, checkpoints.small_model(), 2)

    def start(self, *flags, **options):
        daemon = limits.LimitedDaemon(self.directory, self.models, *flags, **options)
        self.addCleanup(lambda: daemon.stop() if daemon.alive else daemon.kill())
        return daemon

    def test_400_idle_tcp_connections_leave_the_unix_socket_to_others(self):
        daemon = self.start(descriptors=DESCRIPTORS)
        node = attack.Node(daemon, self.models, self.models)
        self.addCleanup(node.close)
        for _ in range(CONNECTIONS):
            try:
                http2.Connection(node, preface=False).socket.settimeout(0.2)
            except OSError:
                pass  # refused: that is an answer too
        for arguments in (["health"], ["load", "m", "--from", self.small], ["show", "m"], ["unload", "m"]):
            result = daemon.command("--timeout", "10s", *arguments)
            self.assertEqual(result.code, 0, result)

    def test_a_lazy_load_of_91_991_keys_in_little_address_space_costs_that_load_only(self):
        daemon = self.start()
        wide = self.models / "wide"
        checkpoints.write_sharded(wide, checkpoints.large_model(), 8, checkpoints.write_sparse_file)
        with wire.Client(daemon.address) as client:
            self.assertEqual(client.load(wire.spec(self.small, model="warm")), "COMPLETE")
            for room_mib in ROOM_MIB:
                limit = (daemon.status_kib("VmSize") << 10) + (room_mib << 20)
                resource.prlimit(daemon.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
                with self.subTest(room_mib=room_mib):
                    outcome = client.load(wire.spec(wide, model="wide", residency="RESIDENCY_LAZY"))
                    self.assertIn(outcome, ("COMPLETE", "MEMORY_EXHAUSTED"))
                    self.assertTrue(daemon.alive)
                    client.unload("wide")
                    self.assertEqual(client.load(wire.spec(self.small, model="warm")), "COMPLETE")

    def test_a_key_list_that_is_not_utf_8_costs_no_model_over_a_restart(self):
        state = self.directory / "state"
        daemon = self.start("--state-dir", str(state))
        with wire.Client(daemon.address) as client:
            outcome, digest = client.upload("KEY_LIST", b"model.embed.weight\n\xff\xfe\n")
            select = {"key_list_digest": digest} if outcome == "OK" else {}
            outcomes = [client.load(wire.spec(self.small, model="kept", select=select))]
            outcomes.append(client.load(wire.spec(self.small, model="other", select={"keys": ["model.embed.weight"]})))
        self.assertNotIn("INTERNAL", outcomes)
        before = sorted(m["name"] for m in daemon.command("--json", "list").json["models"])
        self.assertEqual(daemon.stop(), 0)
        daemon = self.start("--state-dir", str(state))
        after = sorted(m["name"] for m in daemon.command("--json", "list").json["models"])
        self.assertEqual(after, before)
        self.assertNotIn("libprotobuf", daemon.log.read_text())


if __name__ == "__main__":
    unittest.main()
