"""What the differential tests share: quiet packages, one daemon, and manifests written for it."""

import atexit
import json
import os
import pathlib
import shutil
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
_source = pathlib.Path(__file__).resolve().parents[2]
PYTHON_PACKAGE = str(_source / "client" / "python")
sys.path[:0] = [PYTHON_PACKAGE, str(_source / "tests" / "integration")]

import daemon  # noqa: E402

_state = {}


def shared_daemon():
    """A keyloadd for all tests of this process."""
    if "daemon" not in _state:
        directory = pathlib.Path(tempfile.mkdtemp(prefix="keyload-differential-"))
        atexit.register(shutil.rmtree, directory)
        _state["daemon"] = daemon.Daemon(directory, "--simulate-gpus", "8x1GiB")
        atexit.register(_state["daemon"].stop)
    return _state["daemon"]


def new_directory():
    """An empty directory that the daemon may load from."""
    return pathlib.Path(tempfile.mkdtemp(dir=shared_daemon().models))


def write_manifest(manifest):
    path = new_directory() / "manifest.json"
    path.write_text(json.dumps(manifest))
    return path


def plan(source, manifest, *options):
    """The result of `keyload --json plan` of `source` with `manifest`, a dict or a path."""
    path = manifest if isinstance(manifest, pathlib.Path) else write_manifest(manifest)
    return shared_daemon().command("--json", "plan", "m", "--from", source, "--manifest", path, "--names", 10000,
                                   "--report-only", *options)
