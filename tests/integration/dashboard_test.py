"""The dashboard's queries and the documented alerts, asked of a real Prometheus that scrapes a real daemon."""

import json
import re
import signal
import subprocess
import time
import unittest

import checkpoints
import daemon
import dashboard_queries
import metrics_page

DASHBOARD = daemon.SOURCE_DIR / "deploy" / "grafana" / "keyload.json"
DATA_SECONDS = 60
CONFIG = """global:
  scrape_interval: 1s
scrape_configs:
  - job_name: keyload
    static_configs: [{{targets: ["{target}"]}}]
"""


class DashboardTest(daemon.DaemonTest):
    flags = ("--simulate-gpus", "1x64MiB", "--metrics-listen", "127.0.0.1:0")

    def start_prometheus(self):
        """A server of this test's own on a port that the system chooses. Returns its address."""
        config = self.directory / "prometheus.yml"
        config.write_text(CONFIG.format(target=metrics_page.address(self.daemon)))
        log = self.directory / "prometheus.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={self.directory / 'data'}",
                 "--web.listen-address=127.0.0.1:0"], stdout=output, stderr=output)
        self.addCleanup(process.wait)
        self.addCleanup(process.send_signal, signal.SIGTERM)
        deadline = time.monotonic() + daemon.START_SECONDS
        while True:
            text = log.read_text()
            found = re.search(r'msg="Listening on" address=(\S+)', text)
            if found and "Server is ready" in text:
                return f"http://{found.group(1)}"
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"prometheus does not start:\n{text}")
            time.sleep(0.05)

    def play(self, number):
        """Loads of several outcomes, and the rest of a model's life."""
        source = self.models / "m.safetensors"
        checkpoints.write_file(source, {f"w.{i}": ("F32", [64, 64]) for i in range(4)})
        model = f"m{number}"
        self.succeed("load", model, "--from", source, "--device-map", "cuda:0")
        self.succeed("evict", model)
        self.succeed("materialize", model)
        self.keyload("load", f"n{number}", "--from", self.models / "nowhere")
        self.succeed("unload", model)

    def test_every_query_returns_data(self):
        url = self.start_prometheus()
        dashboard = json.loads(DASHBOARD.read_text())
        deadline = time.monotonic() + DATA_SECONDS
        number = 0
        while True:  # rates need events between scrapes
            self.play(number := number + 1)
            lacking = list(dashboard_queries.without_data(url, dashboard, "30s"))
            if not lacking or time.monotonic() > deadline:
                break
        self.assertEqual(lacking, [])
        script = daemon.SOURCE_DIR / "tests" / "integration" / "dashboard_queries.py"
        command = subprocess.run(["python3", "-B", script, url, DASHBOARD], text=True, capture_output=True,
                                 timeout=daemon.COMMAND_SECONDS)
        self.assertEqual(command.returncode, 0, command.stdout + command.stderr)

        documentation = (daemon.SOURCE_DIR / "docs" / "metrics.md").read_text()
        alerts = re.findall(r"^\| \w+ \| `([^`]+)` \|", documentation.split("## Alerts")[1], re.MULTILINE)
        self.assertGreater(len(alerts), 5)
        firing = {alert for alert in alerts if dashboard_queries.query(url, alert.replace("\\|", "|"))}
        self.assertEqual(firing & {alert for alert in alerts if "tls" in alert or "up{" in alert}, set())

        dashboard["panels"][0]["targets"].append({"expr": 'keyload_no_such_metric{job=~"$job"}'})
        lacking = list(dashboard_queries.without_data(url, dashboard, "30s"))
        self.assertEqual(len(lacking), 1, "a query without data is found")

    def test_the_alerts_of_compose_are_those_of_the_documentation(self):
        documentation = (daemon.SOURCE_DIR / "docs" / "metrics.md").read_text().split("## Alerts")[1]
        documented = [(name, expression.replace("\\|", "|"), "" if wait == "0m" else wait)
                      for name, expression, wait in re.findall(r"^\| (\w+) \| `([^`]+)` \| (\w+) \|", documentation, re.MULTILINE)]
        rules = (daemon.SOURCE_DIR / "deploy" / "prometheus" / "alerts.yml").read_text()
        alerts = re.findall(r"- alert: (\w+)\n +expr: (.+)\n(?: +for: (\w+)\n)?", rules)
        self.assertEqual(alerts, documented)
        self.assertGreater(len(alerts), 5)

    def test_the_dashboard_is_one_that_grafana_imports(self):
        dashboard = json.loads(DASHBOARD.read_text())
        panels = list(dashboard_queries.panels(dashboard["panels"]))
        identifiers = [panel["id"] for panel in panels]
        self.assertEqual(len(set(identifiers)), len(identifiers))
        self.assertGreaterEqual(dashboard["schemaVersion"], 38)
        for panel in panels:
            self.assertEqual(panel["datasource"]["uid"], "${datasource}", panel["title"])
            self.assertLessEqual(panel["gridPos"]["x"] + panel["gridPos"]["w"], 24, panel["title"])


if __name__ == "__main__":
    unittest.main()
