"""Who may call: certificates, tokens and their roles, users of a Unix socket, and what probes get."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

import certificates
import checkpoints
import daemon

SECONDS = 30  # for what takes a few; only a failure waits so long
NOBODY = 65534


class AccessTest(daemon.DaemonTest):
    def start(self, *flags, **options):
        return super().start("--log-format", "json", *flags, **options)

    def lines(self, event):
        lines = [json.loads(line) for line in self.daemon.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def await_lines(self, event, count=1):
        deadline = time.monotonic() + SECONDS
        while len(lines := self.lines(event)) < count and time.monotonic() < deadline:
            self.succeed("health")
        self.assertEqual(len(lines), count, self.daemon.log.read_text())
        return lines

    def listening(self):
        """The addresses beside the Unix socket, health address last."""
        line = self.lines("start")[0]
        return [a for a in line["listen"].split(",") if not a.startswith("unix:")] + [line["health_listen"]]

    def at(self, address, *arguments, user=None, environment=None):
        """Runs `keyload --json --server ADDRESS ...`."""
        process = subprocess.run([daemon.BIN_DIR / "keyload", "--server", address, "--json", *map(str, arguments)], user=user,
                                 group=user, extra_groups=() if user else None, capture_output=True, text=True,
                                 timeout=daemon.COMMAND_SECONDS, env={**os.environ, **(environment or {})})
        return daemon.Result(process.returncode, process.stdout, process.stderr)

    def assert_refused(self, result, code, reason, status):
        self.assertEqual(result.code, code, result)
        self.assertEqual((result.error["reason"], result.error["code"]), (reason, status), result)


class TlsTest(AccessTest):
    """Mutual TLS and tokens on TCP; the Unix socket beside it needs neither."""

    def setUp(self):
        super().setUp()
        self.address, self.health = self.listening()
        self.mutual = ("--tls-ca", self.ca.certificate, "--tls-cert", self.client[0], "--tls-key", self.client[1])

    def start(self, *flags, **options):
        self.ca = certificates.Authority(self.directory, "authority")
        self.other = certificates.Authority(self.directory, "stranger")
        self.server = self.ca.issue("server")
        self.client = self.ca.issue("client")
        self.tokens = {}
        for role in ("read", "load", "admin"):
            self.tokens[role] = self.directory / f"{role}.token"
            self.tokens[role].write_text(f"secret of {role}".replace(" ", "-") + "\n")
        self.token_file = self.directory / "tokens"
        self.write_tokens("read", "load", "admin")
        return super().start("--listen", "localhost:0", "--health-listen", "127.0.0.1:0", "--tls-cert", self.server[0], "--tls-key",
                             self.server[1], "--tls-client-ca", self.ca.certificate, "--token-file", self.token_file,
                             "--simulate-gpus", "1x1GiB", **options)

    def write_tokens(self, *roles):
        lines = [f"{role}er {role} {hashlib.sha256(self.tokens[role].read_text().strip().encode()).hexdigest()}\n"
                 for role in roles]
        self.token_file.write_text("# tokens\n" + "".join(lines))

    def call(self, *arguments, role="load"):
        return self.at(self.address, *self.mutual, "--token-file", self.tokens[role], *arguments)

    def replace(self, pair):
        """Puts a certificate and a key where the daemon reads them, each in one step but not both."""
        for source, target in zip(pair, self.server):
            if source is not None:
                shutil.copy(source, self.directory / "next")
                os.rename(self.directory / "next", target)

    def test_a_caller_with_certificate_and_token_loads(self):
        checkpoints.write_file(self.models / "m.safetensors", checkpoints.small_model())
        report = self.call("load", "m", "--from", self.models / "m.safetensors")
        self.assertEqual(report.code, 0, report)
        self.assertEqual(report.json["outcome"], "COMPLETE")
        self.assertEqual([m["name"] for m in self.succeed("list")["models"]], ["m"])

    def test_without_a_certificate_of_the_authority_there_is_no_connection(self):
        stranger = self.other.issue("someone")
        for options in ((), ("--tls-ca", self.ca.certificate),
                        ("--tls-ca", self.ca.certificate, "--tls-cert", stranger[0], "--tls-key", stranger[1])):
            self.assertEqual(self.at(self.address, *options, "info").code, 3, options)

    def test_a_client_does_not_talk_to_a_server_that_it_does_not_trust(self):
        result = self.at(self.address, "--tls-ca", self.other.certificate, "--tls-cert", self.client[0], "--tls-key",
                         self.client[1], "info")
        self.assertEqual(result.code, 3, result)
        self.assertIn("certificate verify failed", result.error["message"])

    def test_a_caller_without_or_with_a_wrong_token(self):
        self.assert_refused(self.at(self.address, *self.mutual, "list"), 4, "TOKEN_MISSING", "UNAUTHENTICATED")
        wrong = self.directory / "wrong.token"
        wrong.write_text("guess")
        self.assert_refused(self.at(self.address, *self.mutual, "--token-file", wrong, "list"), 4, "TOKEN_INVALID",
                            "UNAUTHENTICATED")
        self.assertEqual([line["reason"] for line in self.lines("call refused")], ["TOKEN_MISSING", "TOKEN_INVALID"])

    def test_what_the_roles_may(self):
        checkpoints.write_file(self.models / "m.safetensors", checkpoints.small_model())
        source = ("m", "--from", self.models / "m.safetensors")
        self.assertEqual(self.call("plan", *source, role="read").code, 0)
        for command in (("load", *source), ("unload", "m"), ("map", "set", "x", "--device-map", "cpu"), ("map", "rm", "x")):
            self.assert_refused(self.call(*command, role="read"), 4, "ROLE_INSUFFICIENT", "PERMISSION_DENIED")
        audited = [(line["action"], line.get("model", line.get("map")), line["caller"], line["code"], line["reason"])
                   for line in self.lines("audit")]
        self.assertEqual(audited, [(action, name, "token:reader", "PERMISSION_DENIED", "ROLE_INSUFFICIENT") for action, name in (
            ("load", None), ("unload", "m"), ("set_device_map", "x"), ("delete_device_map", "x"))])
        self.assertEqual(self.call("load", *source).code, 0)
        self.assertEqual(self.lines("audit")[-1]["caller"], "token:loader")
        self.assert_refused(self.call("read", *source[:1], "a", "--out", self.directory / "o", role="read"), 4,
                            "ROLE_INSUFFICIENT", "PERMISSION_DENIED")
        self.assert_refused(self.call("map", "set", "x", "--device-map", "cpu"), 4, "ROLE_INSUFFICIENT", "PERMISSION_DENIED")
        self.assertEqual(self.call("map", "set", "x", "--device-map", "cpu", role="admin").code, 0)
        self.assertEqual(self.call("unload", "m").code, 0)

    def test_tokens_are_replaced_while_the_daemon_runs(self):
        self.write_tokens("load", "admin")
        self.await_lines("credentials")
        self.assert_refused(self.call("list", role="read"), 4, "TOKEN_INVALID", "UNAUTHENTICATED")
        self.token_file.write_text("reader read nonsense\n")
        refused = self.await_lines("credentials refused")[0]
        self.assertIn(f"{self.token_file}:1", refused["error"])
        self.assertEqual(self.call("list").code, 0, "the tokens from before count")
        self.token_file.write_text("")
        self.assertIn("no token", self.await_lines("credentials refused", 2)[1]["error"])
        self.assertEqual(self.call("list").code, 0, "an emptied file changes nothing")

    def test_a_new_certificate_is_served_and_no_call_fails(self):
        new_authority = certificates.Authority(self.directory, "new")
        either = self.directory / "either.crt"
        either.write_text(self.ca.certificate.read_text() + new_authority.certificate.read_text())
        results, done = [], threading.Event()

        def keep_calling():
            while not done.is_set() or not results:
                results.append(self.at(self.address, "--tls-ca", either, *self.mutual[2:], "--token-file",
                                       self.tokens["load"], "list"))

        callers = [threading.Thread(target=keep_calling) for _ in range(2)]
        for caller in callers:
            caller.start()
        self.replace(new_authority.issue("new-server"))
        self.await_lines("credentials")
        done.set()
        for caller in callers:
            caller.join()
        self.assertEqual([result for result in results if result.code != 0], [])
        trusting_new = ("--tls-ca", new_authority.certificate, *self.mutual[2:])
        self.assertEqual(self.at(self.address, *trusting_new, "--token-file", self.tokens["load"], "list").code, 0)
        self.assertEqual(self.call("list").code, 3, "the old certificate is not served any more")

    def test_a_mismatched_certificate_leaves_the_old_one_serving(self):
        new = self.ca.issue("new-server")
        self.replace((new[0], None))
        refused = self.await_lines("credentials refused")[0]
        self.assertIn(f"{self.server[1]}: is not the key of the certificate in {self.server[0]}", refused["error"])
        self.assertEqual(self.call("list").code, 0)
        self.replace((None, new[1]))
        self.await_lines("credentials")
        self.assertEqual(self.call("list").code, 0)

    def test_probes_need_neither_and_get_nothing_else(self):
        self.assertEqual(self.at(self.health, "health").json["status"], "SERVING")
        for service in ("liveness", "readiness", "keyload.v1.ModelLoaderService"):
            self.assertEqual(self.at(self.health, "health", service).code, 0, service)
        for command in ("list", "info", "devices"):
            self.assertEqual(self.at(self.health, command).json["error"]["code"], "UNIMPLEMENTED")

    def test_a_token_does_not_leave_the_machine_unencrypted(self):
        result = self.at("192.0.2.1:7077", "--token-file", self.tokens["load"], "list")
        self.assertEqual(result.code, 2, result)
        self.assertIn("unencrypted", result.error["message"])


class ServerTlsTest(AccessTest):
    """TLS without client certificates."""

    def start(self, *flags, **options):
        self.ca = certificates.Authority(self.directory, "authority")
        certificate, key = self.ca.issue("server")
        return super().start("--listen", "localhost:0", "--tls-cert", certificate, "--tls-key", key, *flags, **options)

    def test_clients_need_no_certificate_but_trust_the_servers(self):
        address = self.listening()[0]
        self.assertEqual(self.at(address, "--tls-ca", self.ca.certificate, "list").code, 0)
        self.assertEqual(self.at(address, "list").code, 3)


@unittest.skipUnless(shutil.which("prlimit"), "takes prlimit")
class DescriptorTest(AccessTest):
    """A daemon that was out of descriptors serves again when there are some, on every listener."""

    flags = ("--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0")

    def test_every_listener_goes_on(self):
        addresses = self.listening()
        subprocess.run(["prlimit", f"--pid={self.daemon.process.pid}", "--nofile=128:128"], check=True)
        for address in addresses:
            host, port = address.rsplit(":", 1)
            connections = [socket.create_connection((host, int(port))) for _ in range(200)]
            for connection in connections:
                connection.close()
        for address in (*addresses, self.daemon.address):
            self.assertEqual(self.at(address, "health").code, 0, self.daemon.log.read_text())


class ProxyTest(AccessTest):
    """A token is for the daemon and nobody between."""

    flags = ("--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0")

    def test_clients_pass_the_proxies_of_the_environment_by(self):
        token = self.directory / "token"
        token.write_text("secret\n")
        address = self.listening()[0]
        with socket.create_server(("127.0.0.1", 0)) as proxy:
            url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
            environment = {name: url for name in ("grpc_proxy", "https_proxy", "http_proxy")}
            environment.update({name: "" for name in ("no_grpc_proxy", "no_proxy")})
            result = self.at(address, "--timeout", "10", "--token-file", token, "list", environment=environment)
            scenario = self.directory / "scenario.json"
            scenario.write_text(json.dumps({"about": "A call.", "steps": [{"step": "call", "method": "ListModels"}]}))
            mock = subprocess.run([daemon.BIN_DIR / "keyload-mock", "--server", address, "--work-dir", self.models, scenario],
                                  capture_output=True, text=True, timeout=daemon.COMMAND_SECONDS,
                                  env={**os.environ, **environment})
            proxy.setblocking(False)
            with self.assertRaises(BlockingIOError, msg="nobody has connected to the proxy"):
                proxy.accept()
        self.assertEqual(result.code, 0, result)
        self.assertEqual(mock.returncode, 0, mock)


class StartTest(unittest.TestCase):
    """What keyloadd refuses to start with."""

    def refuse(self, *flags):
        result = subprocess.run([daemon.BIN_DIR / "keyloadd", *map(str, flags)], capture_output=True, text=True, timeout=30)
        self.assertEqual(result.returncode, 2, result)
        return result.stderr

    def test_an_address_beyond_loopback_needs_tls_or_a_word(self):
        self.assertIn("--insecure-listen", self.refuse("--listen", "0.0.0.0:0"))

    def test_certificates_and_tokens_that_are_not_there(self):
        self.assertIn("/no/cert", self.refuse("--listen", "127.0.0.1:0", "--tls-cert", "/no/cert", "--tls-key", "/no/key"))
        self.assertIn("/no/tokens", self.refuse("--check-config", "--token-file", "/no/tokens"))
        self.assertIn("/no/tokens", self.refuse("--listen", "127.0.0.1:0", "--token-file", "/no/tokens"))


class SecondDaemonTest(AccessTest):
    """Two daemons on one address: the second ends and the first goes on."""

    def second(self, *flags):
        process = self.daemon.spawn(*flags)
        self.assertNotEqual(process.wait(timeout=30), 0)
        self.assertEqual(self.keyload("list").code, 0)
        return self.daemon.log.read_text()

    def test_the_same_socket(self):
        self.assertIn("another keyloadd listens there", self.second("--listen", self.daemon.address))

    def test_the_same_ports(self):
        self.daemon.stop()
        self.daemon = self.start("--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0")
        line = self.lines("start")[-1]
        address = line["listen"].split(",")[1]
        other = f"unix:{self.directory}/other.sock"
        self.assertIn(f"cannot listen on {address}", self.second("--listen", other, "--listen", address))
        health = line["health_listen"]
        self.assertIn(f"cannot listen on {health}", self.second("--listen", other, "--health-listen", health))


@unittest.skipUnless(os.geteuid() == 0, "takes root, to become other users")
class UserTest(AccessTest):
    """Users and groups of a Unix socket that anybody can reach."""

    def start(self, *flags, **options):
        self.config = self.directory / "keyloadd.toml"
        self.config.write_text("")
        self.directory.chmod(0o755)
        return super().start("--config", self.config, "--socket-mode", "0666", *flags, **options)

    def test_users_and_groups_that_are_not_listed_are_refused(self):
        address = self.daemon.address
        self.assertEqual(self.at(address, "list", user=NOBODY).code, 0)
        self.config.write_text('allow_uid = ["0"]\n')
        self.daemon.process.send_signal(signal.SIGHUP)
        self.await_lines("reload")
        self.assert_refused(self.at(address, "list", user=NOBODY), 4, "PEER_NOT_ALLOWED", "PERMISSION_DENIED")
        self.assert_refused(self.at(address, "health", user=NOBODY), 4, "PEER_NOT_ALLOWED", "PERMISSION_DENIED")
        self.assertEqual(self.lines("connection refused")[0]["uid"], NOBODY)
        self.assertEqual(self.at(address, "list").code, 0)
        self.config.write_text(f'allow_uid = ["0"]\nallow_gid = ["{NOBODY}"]\n')
        self.daemon.process.send_signal(signal.SIGHUP)
        self.await_lines("reload", 2)
        self.assertEqual(self.at(address, "list", user=NOBODY).code, 0)

    def test_an_emptied_list_does_not_admit_everybody(self):
        self.config.write_text('allow_uid = ["0"]\n')
        self.daemon.process.send_signal(signal.SIGHUP)
        self.await_lines("reload")
        self.config.write_text("allow_uid = []\n")
        self.daemon.process.send_signal(signal.SIGHUP)
        self.await_lines("reload refused")
        self.assert_refused(self.at(self.daemon.address, "list", user=NOBODY), 4, "PEER_NOT_ALLOWED", "PERMISSION_DENIED")


@unittest.skipUnless(os.geteuid() == 0, "takes root, to become other users")
class SocketModeTest(AccessTest):
    flags = ("--socket-mode", "0600")

    def test_the_mode_keeps_other_users_away(self):
        self.directory.chmod(0o755)
        self.assertEqual(self.at(self.daemon.address, "list", user=NOBODY).code, 3)
        os.chmod(self.daemon.address.removeprefix("unix:"), 0o666)
        self.assertEqual(self.at(self.daemon.address, "list", user=NOBODY).code, 0, "it is the mode that did it")


class SocketRoleTest(AccessTest):
    flags = ("--socket-role", "read")

    def test_callers_on_the_socket_may_only_look(self):
        self.assertEqual(self.keyload("list").code, 0)
        self.refused(4, "ROLE_INSUFFICIENT", "unload", "m")


if __name__ == "__main__":
    unittest.main()
