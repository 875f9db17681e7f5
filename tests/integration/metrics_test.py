"""What --metrics-listen shows: exact values after loads of every outcome, a page that promtool accepts, and no trouble."""

import hashlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import unittest

import certificates
import checkpoints
import daemon
import metrics_page

TENSOR = ("F32", [256, 256])
TENSOR_BYTES = 256 * 256 * 4
KEYS = 4
NOBODY = 65534
DOCS = daemon.SOURCE_DIR / "docs" / "metrics.md"


class MetricsTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "1x64MiB@16MiB", "--metrics-listen", "127.0.0.1:0")
    placement = ("--device-map", "cuda:0")

    def setUp(self):
        super().setUp()
        self.source = self.models / "small"
        self.tensors = {f"w.{i}": TENSOR for i in range(KEYS)}
        checkpoints.write_sharded(self.source, self.tensors, 2)
        self.before = self.series()

    def series(self):
        return metrics_page.series(metrics_page.text(self.daemon))

    def load(self, model, *more, source=None):
        return ("load", model, "--from", source or self.source, *self.placement, *more)

    def manifest(self, tensors):
        path = self.directory / "manifest.json"
        path.write_text(checkpoints.manifest(tensors))
        return path

    def assert_grew(self, expected, prefix="keyload_", but=()):
        """Every series that begins with `prefix` has grown by what `expected` says, and the others not at all."""
        now = self.series()
        grown = {name: value - self.before.get(name, 0) for name, value in now.items()
                 if name.startswith(prefix) and not name.startswith(but) and value != self.before.get(name, 0)}
        self.assertEqual(grown, expected)

    def bytes_loaded(self):
        now = self.series()
        return sum(now[f'keyload_loaded_bytes_total{{path="{path}"}}'] for path in ("read", "cached", "mapped"))


def outcome(name, family="load_requests"):
    return f'keyload_{family}_total{{outcome="{name}"}}'


class LoadsTest(MetricsTest):
    def test_loads_count_by_outcome(self):
        more = self.manifest({**self.tensors, "lacking": TENSOR, "w.0": ("F32", [256, 255])})
        sparse = self.models / "large.safetensors"
        checkpoints.write_sparse_file(sparse, {"w": ("F32", [1024, 1024, 32])})
        self.succeed(*self.load("complete"))
        self.succeed(*self.load("incomplete", "--manifest", more, "--report-only"))
        self.assertEqual(self.keyload(*self.load("rejected", "--manifest", more, "--strict")).code, 1)
        self.refused(6, "DEVICE_OUT_OF_MEMORY", *self.load("failed", source=sparse))
        self.refused(6, "CHECKPOINT_NOT_FOUND", *self.load("error", source=self.models / "nowhere"))
        self.succeed("plan", "planned", "--from", self.source, *self.placement)
        self.assert_grew({
            outcome("complete"): 1, outcome("incomplete"): 1, outcome("rejected"): 1, outcome("failed"): 1,
            outcome("error"): 1, "keyload_load_requests_started_total": 5,
        }, "keyload_load_requests")
        self.assert_grew({
            "keyload_keys_expected_total": KEYS + 2 * (KEYS + 1) + 1, "keyload_keys_missing_total": 2,
            "keyload_keys_mismatched_total": 2,
        }, "keyload_keys")
        self.assertEqual(self.bytes_loaded(), (2 * KEYS - 1) * TENSOR_BYTES)
        totals = {name: value for name, value in self.series().items() if "_duration_seconds_count" in name}
        phases = {name: totals[f'keyload_load_duration_seconds_count{{phase="{name}"}}']
                  for name in ("queue", "open", "plan", "reserve", "transfer", "publish", "total")}
        self.assertEqual(phases, {"queue": 4, "open": 4, "plan": 4, "reserve": 3, "transfer": 2, "publish": 2, "total": 4})
        self.assertNotIn('keyload_load_duration_seconds_count{phase="other"}', totals)

    def test_a_cancelled_load_counts_and_frees(self):
        big = self.models / "big"
        checkpoints.write_sharded(big, {f"w.{i}": ("F32", [1024, 1024]) for i in range(8)}, 2)  # two seconds
        accepted = self.succeed(*self.load("big", "--detach", source=big))
        while not self.series()['keyload_device_memory_bytes{device="cuda:0",kind="used"}']:
            pass  # each turn is a scrape
        self.assertEqual(self.series()["keyload_inflight_loads"], 1)
        self.assertEqual(self.series()['keyload_models{state="loading"}'], 1)
        self.succeed("cancel", accepted["load"])
        self.keyload("wait", accepted["load"])
        self.assert_grew({outcome("cancelled"): 1, "keyload_load_requests_started_total": 1}, "keyload_load_requests")
        now = self.series()
        self.assertEqual((now["keyload_inflight_loads"], now['keyload_models{state="loading"}']), (0, 0))

    def test_a_load_that_is_cancelled_while_it_waits_is_cancelled(self):
        big = self.models / "big"
        checkpoints.write_sharded(big, {f"w.{i}": ("F32", [1024, 1024]) for i in range(8)}, 2)
        loads = [self.succeed(*self.load(f"big{i}", "--detach", source=big))["load"] for i in range(3)]
        while (now := self.series())['keyload_load_queue_depth{waits_for="thread"}'] != 1:
            self.assertEqual(now[outcome("complete")], 0, "a load was done before the third one waited")
        self.succeed("cancel", loads[2])
        self.refused(5, "LOAD_CANCELLED", "wait", loads[2])
        self.assert_grew({outcome("cancelled"): 1, "keyload_load_requests_started_total": 3}, "keyload_load_requests")
        for load in loads[:2]:
            self.succeed("cancel", load)

    def test_a_request_that_the_model_answers_is_no_load(self):
        self.succeed(*self.load("m"))
        self.succeed(*self.load("m"))
        self.refused(6, "MODEL_EXISTS", *self.load("m", "--if-exists", "fail"))
        self.assert_grew({outcome("complete"): 1, outcome("error"): 1, "keyload_load_requests_started_total": 2,
                          "keyload_load_requests_joined_total": 1}, "keyload_load_requests")

    def test_what_is_done_to_models_counts(self):
        self.succeed(*self.load("m", "--lazy"))
        self.succeed("materialize", "m", "--include", "w.0")
        self.succeed("materialize", "m", "--include", "w.1")
        self.assertEqual(self.bytes_loaded(), 2 * TENSOR_BYTES)
        self.assertEqual(self.series()['keyload_models{state="partial"}'], 1)
        self.succeed("read", "m", "w.2", "--out", self.directory / "out.safetensors")
        self.assertEqual(self.bytes_loaded(), 3 * TENSOR_BYTES)
        self.refused(6, "KEY_NOT_FOUND", "materialize", "m", "--keys", self.names("no.such.key"))
        evicted = self.succeed("evict", "m")["bytes"]
        self.succeed("unload", "m")
        self.succeed("unload", "m")  # of nothing
        self.assert_grew({outcome("complete", "materializations"): 2, outcome("error", "materializations"): 1,
                          "keyload_materializations_started_total": 3}, "keyload_materializations")
        self.assert_grew({"keyload_evictions_total": 1, "keyload_evicted_bytes_total": int(evicted)}, "keyload_evict")
        self.assertEqual(self.series()["keyload_unloads_total"], 1)
        self.assertEqual(self.series()['keyload_device_memory_bytes{device="cuda:0",kind="used"}'], 0)

    def names(self, *keys):
        path = self.directory / "names"
        path.write_text("".join(f"{key}\n" for key in keys))
        return path

    def test_changes_of_device_maps_count(self):
        self.succeed("map", "set", "mine", "--device-map", "cuda:0")
        self.succeed("map", "set", "mine", "--device-map", "cpu")
        self.succeed("map", "rm", "mine")
        self.refused(6, "DEVICE_MAP_NOT_FOUND", "map", "rm", "mine")
        self.assert_grew({'keyload_device_map_changes_total{change="set"}': 2,
                          'keyload_device_map_changes_total{change="delete"}': 1}, "keyload_device_map_changes")

    def test_calls_count_by_method_and_code(self):
        self.succeed("show", self.succeed(*self.load("m"))["model"])
        self.refused(6, "MODEL_NOT_FOUND", "show", "nobody")
        calls = {name: value for name, value in self.series().items()
                 if "calls_total" in name and 'method="GetModel"' in name and value}
        self.assertEqual(calls, {'keyload_grpc_server_calls_total{code="OK",method="GetModel"}': 1,
                                 'keyload_grpc_server_calls_total{code="NOT_FOUND",method="GetModel"}': 1})
        self.assertEqual(self.series()['keyload_grpc_server_call_duration_seconds_count{method="GetModel"}'], 2)
        self.assertEqual(self.series()["keyload_open_calls"], 0)

    def test_a_client_that_is_killed_ends_its_call(self):
        big = self.models / "big"
        checkpoints.write_sharded(big, {f"w.{i}": ("F32", [1024, 1024]) for i in range(8)}, 2)
        load = self.succeed(*self.load("big", "--detach", source=big))["load"]
        watch = self.daemon.popen("wait", load)
        self.addCleanup(watch.communicate)
        while self.series()["keyload_open_calls"] != 1:
            self.assertIsNone(watch.poll())
        watch.kill()
        while self.series()["keyload_open_calls"] != 0:
            pass
        self.assertEqual(self.series()['keyload_grpc_server_calls_total{code="CANCELLED",method="WatchLoad"}'], 1)
        self.succeed("cancel", load)


class ClientsTest(MetricsTest):
    flags = ("--simulate-gpus", "1x64MiB", "--metrics-listen", "localhost:0")
    CLIENTS = 10

    def test_ten_clients_at_the_same_time_are_all_counted(self):
        def together(*arguments):
            clients = [self.daemon.popen("--json", *(str(part).replace("NAME", f"m{i}") for part in arguments))
                       for i in range(self.CLIENTS)]
            for client in clients:
                out, err = client.communicate(timeout=daemon.COMMAND_SECONDS)
                self.assertEqual(client.returncode, 0, out + err)

        together(*self.load("NAME"))
        self.assertEqual(self.series()['keyload_models{state="resident"}'], self.CLIENTS)
        together("keys", "NAME")
        together("unload", "NAME")
        now = self.series()
        for name in (outcome("complete"), "keyload_load_requests_started_total", "keyload_unloads_total",
                     'keyload_load_duration_seconds_count{phase="total"}',
                     'keyload_grpc_server_calls_total{code="OK",method="ListKeys"}',
                     'keyload_grpc_server_calls_started_total{method="UnloadModel"}',
                     'keyload_grpc_server_call_duration_seconds_count{method="UnloadModel"}'):
            self.assertEqual(now[name], self.CLIENTS, name)
        self.assertEqual(self.bytes_loaded(), self.CLIENTS * KEYS * TENSOR_BYTES)
        self.assertEqual(now["keyload_keys_expected_total"], self.CLIENTS * KEYS)
        for name in ("keyload_inflight_loads", "keyload_open_calls", 'keyload_models{state="resident"}',
                     'keyload_device_memory_bytes{device="cuda:0",kind="used"}'):
            self.assertEqual(now[name], 0, name)


class CredentialsTest(MetricsTest):
    def start(self, *flags, **options):
        authority = certificates.Authority(self.directory, "authority")
        self.pair = authority.issue("server")
        self.other_key = authority.issue("other")[1]
        return super().start("--tls-cert", self.pair[0], "--tls-key", self.pair[1], *flags, **options)

    def test_a_certificate_without_its_key_shows_and_the_one_before_stays(self):
        before = self.series()
        expiry = before["keyload_tls_certificate_expiry_timestamp_seconds"]
        self.assertAlmostEqual(expiry - time.time(), 30 * 86400, delta=86400)
        self.assertEqual(before["keyload_tls_certificate_current"], 1)
        self.assertEqual(before["keyload_tls_reload_failures_total"], 0)
        good = self.pair[1].read_bytes()
        self.pair[1].write_bytes(self.other_key.read_bytes())
        now = self.await_current(0)
        self.assertEqual(now["keyload_tls_reload_failures_total"], 1)
        self.assertEqual(now["keyload_tls_certificate_expiry_timestamp_seconds"], expiry)
        self.pair[1].write_bytes(good)
        self.assertEqual(self.await_current(1)["keyload_tls_reload_failures_total"], 1)

    def await_current(self, value):
        deadline = time.monotonic() + daemon.START_SECONDS
        while (now := self.series())["keyload_tls_certificate_current"] != value and time.monotonic() < deadline:
            pass  # each turn is a scrape
        self.assertEqual(now["keyload_tls_certificate_current"], value)
        return now


class RefusedTest(MetricsTest):
    def start(self, *flags, **options):
        tokens = self.directory / "tokens"
        tokens.write_text(f"reader read {hashlib.sha256(b'known').hexdigest()}\n")
        self.directory.chmod(0o755)
        return super().start("--token-file", tokens, "--listen", "127.0.0.1:0", "--socket-mode", "0666", "--allow-uid", "0",
                             *flags, **options)

    def at(self, address, *arguments, token=None, user=None):
        if token:
            path = self.directory / "token"
            path.write_text(token)
            arguments = ("--token-file", path, *arguments)
        command = [daemon.BIN_DIR / "keyload", "--json", "--server", address, *map(str, arguments)]
        return subprocess.run(command, user=user, group=user, extra_groups=() if user else None, capture_output=True,
                              text=True, timeout=daemon.COMMAND_SECONDS).returncode

    def test_refused_callers_count_by_reason(self):
        address = re.search(r"\blisten=\S*?(127\.0\.0\.1:\d+)", self.daemon.log.read_text()).group(1)
        self.assertEqual(self.at(address, "list"), 4)
        self.assertEqual(self.at(address, "list", token="guess"), 4)
        self.assertEqual(self.at(address, "list", token="known"), 0)
        self.assertEqual(self.at(address, "unload", "m", token="known"), 4)
        self.assert_grew({f'keyload_authentication_failures_total{{reason="{reason}"}}': 1
                          for reason in ("token_missing", "token_invalid", "role_insufficient")},
                         "keyload_authentication_failures")
        self.assertEqual(self.series()['keyload_grpc_server_calls_total{code="UNAUTHENTICATED",method="ListModels"}'], 2)

    @unittest.skipUnless(os.geteuid() == 0, "takes root, to become another user")
    def test_refused_connections_count(self):
        self.assertEqual(self.at(self.daemon.address, "list", user=NOBODY), 4)
        self.assertGreaterEqual(self.series()["keyload_connections_refused_total"], 1)


class PageTest(MetricsTest):
    def test_promtool_has_no_complaint(self):
        self.succeed(*self.load("m"))
        check = subprocess.run(["promtool", "check", "metrics"], input=metrics_page.text(self.daemon), text=True,
                               capture_output=True, timeout=daemon.COMMAND_SECONDS)
        self.assertEqual((check.returncode, check.stdout, check.stderr), (0, "", ""))

    def test_the_documentation_names_every_family_and_no_other(self):
        rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram|summary) \|([^|]*)\|", DOCS.read_text(), re.MULTILINE)
        page = metrics_page.text(self.daemon)
        self.assertEqual({name: kind for name, kind, _ in rows}, metrics_page.types(page))
        shown = {}
        for name in metrics_page.series(page):
            family = re.sub(r"_(bucket|sum|count)$", "", name.split("{")[0])
            labels = set(re.findall(r'(\w+)="', name)) - {"le", "quantile"}
            shown.setdefault(family if family in metrics_page.types(page) else name.split("{")[0], set()).update(labels)
        self.assertEqual({name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in rows}, shown)

    def test_no_label_has_a_name_from_outside(self):
        self.succeed(*self.load("telltale"))
        page = metrics_page.text(self.daemon)
        for word in ("telltale", "small", "w.0", str(self.models)):
            self.assertNotIn(word, page)
        self.assertLess(len(metrics_page.series(page)), 2000)


class PortTest(MetricsTest):
    def test_a_port_in_use_is_refused(self):
        process = self.daemon.spawn("--listen", f"unix:{self.directory}/second.sock", "--metrics-listen",
                                    metrics_page.address(self.daemon))
        self.assertEqual(process.wait(timeout=daemon.START_SECONDS), 6)
        self.assertIn(f"cannot listen on {metrics_page.address(self.daemon)}", self.daemon.log.read_text())

    def test_clients_that_send_nothing_do_not_keep_the_daemon(self):
        host, port = metrics_page.address(self.daemon).split(":")
        clients = [socket.create_connection((host, int(port))) for _ in range(4)]
        for client in clients:
            self.addCleanup(client.close)
            client.send(b"GET /metrics HTTP/1.1\r\n")
        self.daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemon.process.wait(timeout=daemon.COMMAND_SECONDS), 0)


class NoPortTest(daemon.DaemonTest):
    def test_without_the_option_nothing_listens(self):
        inodes = {re.sub(r"\D", "", link) for fd in pathlib.Path(f"/proc/{self.daemon.process.pid}/fd").iterdir()
                  if (link := str(fd.readlink())).startswith("socket:")}
        tables = "".join(pathlib.Path(f"/proc/{self.daemon.process.pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
        listening = [line for line in tables.splitlines() if len(parts := line.split()) > 9 and parts[9] in inodes]
        self.assertEqual(listening, [])


if __name__ == "__main__":
    unittest.main()
