"""The mock client, run by the tests."""

import subprocess
import sys

import daemon

SCENARIOS = daemon.SOURCE_DIR / "tests/integration/scenarios"


def play(running, *arguments):
    """Plays scenarios against `running`, shows what the mock client says, and returns the finished process."""
    command = [daemon.BIN_DIR / "keyload-mock", "--server", running.address, "--work-dir", running.models, *arguments]
    mock = subprocess.run(command, capture_output=True, text=True, timeout=200)
    print(mock.stdout, file=sys.stderr)
    return mock
