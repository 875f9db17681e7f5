"""The attach protocol, server against a client that was written from its specification: real sockets, real processes."""

import hashlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import unittest

import attach_witness
import environment

BIN_DIR = environment.folder("KEYLOAD_BIN_DIR", "where the programs are")
NOBODY = 65534
HERE = pathlib.Path(__file__).parent


def made_bytes(tensor, elements):
    """What tests/support/fake_attach_source.cc fills a tensor with."""
    return bytes((tensor * 31 + i * 7 + 3) & 0xFF for i in range(elements))


class AttachTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        self.path = f"{folder.name}/attach.sock"

    def serve(self, segments=5, tensors=40, elements=100):
        command = [BIN_DIR / "keyload-attach-fixture", self.path, str(segments), str(tensors), str(elements)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.stop)
        self.assertEqual(self.server.stdout.readline(), "ready\n")
        self.tensors, self.elements = tensors, elements

    def stop(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def ask(self, line):
        self.server.stdin.write(line + "\n")
        self.server.stdin.flush()
        return self.server.stdout.readline().strip()

    def token(self):
        return bytes.fromhex(self.ask("token"))

    def attach(self, **options):
        lease = attach_witness.Lease(self.path, **({} if "model" in options else {"token": self.token()}), **options)
        self.addCleanup(lease.close)
        return lease

    def check(self, lease):
        self.assertEqual(lease.table.rows, self.tensors)
        for tensor in range(self.tensors):
            row = lease.table.find(f"layers.{tensor}.weight")
            self.assertEqual(lease.table.order[row], tensor)
            self.assertEqual(lease.table.shape(row), [self.elements])
            self.assertEqual(bytes(lease.tensor(row)), made_bytes(tensor, self.elements))
        self.assertIsNone(lease.table.find("layers"))

    def wait_for_leases(self, count):
        while int(self.ask("leases")) != count:
            pass

    def witness(self, *arguments, user=None):
        """The lines that the witness prints as a program of its own."""
        command = [sys.executable, "-B", HERE / "attach_witness.py", self.path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, user=user, group=user, extra_groups=[] if user else None)

    def test_a_token_gives_every_byte(self):
        self.serve()
        lease = self.attach()
        self.check(lease)
        self.assertEqual((lease.name, lease.generation), ("lease-000001", 7))
        self.wait_for_leases(1)
        lease.close()
        self.wait_for_leases(0)

    def test_a_request_gives_every_byte(self):
        self.serve()
        self.check(self.attach(model="model", include=["layers.*"], keys=["a", "b"]))

    def test_700_segments_come_in_batches(self):
        self.serve(segments=700, tensors=700, elements=3)
        lease = self.attach(batch=10)
        self.check(lease)
        self.assertGreaterEqual(lease.messages, 70)

    def test_another_user_attaches_as_a_program_of_its_own(self):
        self.serve()
        if os.getuid() != 0:
            self.skipTest("needs root, to be another user")
        os.chmod(self.path, 0o666)
        result = self.witness("--token", self.ask("token"), user=NOBODY)
        self.assertEqual(result.returncode, 0, result.stderr)
        expected = sorted((f"layers.{i}.weight U8 [{self.elements}] {hashlib.sha256(made_bytes(i, self.elements)).hexdigest()}"
                           for i in range(self.tensors)), key=lambda line: line.split(" ", 1)[0].encode())
        self.assertEqual(result.stdout.splitlines(), expected)
        pid, uid, label = self.ask("peer").split(" ", 2)
        self.assertEqual((uid, label), (str(NOBODY), "witness"))
        self.assertNotEqual(int(pid), 0)

    def test_a_pid_namespace_and_no_proc_in_common_do_not_matter(self):
        self.serve()
        probe = subprocess.run(["unshare", "--pid", "--ipc", "--mount", "--fork", "true"], capture_output=True)
        if probe.returncode != 0:
            self.skipTest("may make no namespaces")
        command = ["unshare", "--pid", "--ipc", "--mount", "--fork", sys.executable, "-B", HERE / "attach_witness.py", self.path]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(result.stdout.splitlines()), self.tensors)

    def test_a_token_is_good_once(self):
        self.serve()
        token = self.token()
        attach_witness.Lease(self.path, token=token).close()
        with self.assertRaises(attach_witness.Refused) as refused:
            attach_witness.Lease(self.path, token=token)
        self.assertEqual((refused.exception.reason, refused.exception.code), ("TOKEN_INVALID", 16))
        with self.assertRaises(attach_witness.Refused) as refused:
            attach_witness.Lease(self.path, token=os.urandom(32))
        self.assertEqual(refused.exception.reason, "TOKEN_INVALID")

    def test_what_is_no_message_is_refused(self):
        self.serve()
        for packet in (b"GET / HTTP/1.1\r\n", b"KLA1\1\0\1\0short", b"KLA1\7\0\1\0", b"x" * 5000):
            connection = attach_witness.Connection(self.path)
            connection.socket.send(packet)
            with self.assertRaises(attach_witness.Refused) as refused:
                connection.receive()
            self.assertEqual(refused.exception.reason, "BAD_REQUEST")
            connection.socket.close()

    def test_notes_come_and_the_end_is_said(self):
        self.serve()
        lease = self.attach()
        while self.ask("attached") != "1":  # the server has the last NEXT
            pass
        for line in (f"note {lease.name}", "drain", f"end {lease.name}"):
            self.assertEqual(self.ask(line), "done")
        notes = []
        with self.assertRaises(attach_witness.Refused) as refused:
            while True:
                notes.append(lease.note())
        self.assertEqual(refused.exception.reason, "MODEL_NOT_FOUND")
        self.assertEqual(notes, [(1, 8), (3, 0), (2, 7)])
        self.check(lease)  # what is mapped stays

    def test_release_ends_the_lease(self):
        self.serve()
        lease = self.attach()
        self.wait_for_leases(1)
        lease.release()
        self.assertIsNone(lease.note())
        self.wait_for_leases(0)
        self.check(lease)

    def test_a_client_that_is_killed_leaves_no_lease(self):
        self.serve()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                lease = attach_witness.Lease(self.path, model="model", label="killed")
                os.write(writing, lease.name[-1:].encode())
                signal.pause()
            finally:
                os._exit(1)
        self.assertEqual(os.read(reading, 1), b"1")
        self.wait_for_leases(1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.wait_for_leases(0)
        os.close(reading)
        os.close(writing)

    def test_a_client_that_may_open_64_descriptors_asks_for_few_at_a_time(self):
        self.serve(segments=40, tensors=40, elements=100)  # the mmap module keeps one for each map
        command = [sys.executable, "-B", HERE / "attach_witness.py", self.path, "--batch", "8"]
        result = subprocess.run(command, capture_output=True, text=True,
                                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(result.stdout.splitlines()), 40)


if __name__ == "__main__":
    unittest.main()
