"""The page that a daemon shows to Prometheus."""

import re
import urllib.request

READ_SECONDS = 30


def address(daemon):
    """HOST:PORT that the daemon's log names."""
    found = re.findall(r'\bmetrics_listen"?[=:]"?([^\s",]+)', daemon.log.read_text())
    if not found:
        raise AssertionError(f"the log names no metrics_listen:\n{daemon.log.read_text()}")
    return found[-1]


def text(daemon):
    with urllib.request.urlopen(f"http://{address(daemon)}/metrics", timeout=READ_SECONDS) as answer:
        return answer.read().decode()


def series(page):
    """Values by series as the page writes them: {'keyload_models{state="lazy"}': 1.0}."""
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def types(page):
    """Types by family: {"keyload_models": "gauge"}."""
    return dict(line.split()[2:4] for line in page.splitlines() if line.startswith("# TYPE "))
