"""Which calls and which errors the mock client's scenarios cover. Reads files only."""

import collections
import json
import re

# Reasons that no scenario can bring about from outside, and why.
NOT_FROM_OUTSIDE = {
    "TOKEN_MISSING": "depends on how the daemon was started: access_test.py",
    "TOKEN_INVALID": "depends on how the daemon was started: access_test.py",
    "ROLE_INSUFFICIENT": "depends on how the daemon was started: access_test.py",
    "PEER_NOT_ALLOWED": "depends on how the daemon was started: access_test.py",
    "TEMPLATE_INVALID": "the operator's templates are no part of a request; expected_test.py gives a daemon a bad one",
    "INTERNAL": "a defect, or no memory for a header: a scenario that could bring it about would be a bug to mend",
}
STEP_METHODS = {"load": "Load", "upload_manifest": "UploadDocument", "read": "ReadTensors",
                "remember_devices": "ListDevices", "devices_as_remembered": "ListDevices"}


def methods(source_dir):
    text = (source_dir / "proto/keyload/v1/model_loader.proto").read_text()
    return re.findall(r"^  rpc (\w+)\(", text, re.MULTILINE)


def reasons(source_dir):
    table = (source_dir / "docs/errors.md").read_text().split("\n## Reasons\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE)


def expected_reasons(expectation):
    """Every reason that an expectation names, `$any_of` not counted: which one came is not known then."""
    if isinstance(expectation, dict):
        reason = expectation.get("reason")
        if isinstance(reason, str):
            yield reason
        for name, value in expectation.items():
            if name != "$any_of":
                yield from expected_reasons(value)
    elif isinstance(expectation, list):
        for value in expectation:
            yield from expected_reasons(value)


def method_of(step):
    return STEP_METHODS.get(step["step"]) or step.get("method", "").removeprefix("/keyload.v1.ModelLoaderService/")


def covered(scenario_files):
    """({method: scenarios}, {reason: scenarios})"""
    by_method, by_reason = collections.defaultdict(set), collections.defaultdict(set)
    for path in scenario_files:
        for step in json.loads(path.read_text())["steps"]:
            by_method[method_of(step)].add(path.stem)
            for reason in expected_reasons({name: value for name, value in step.items() if name != "request"}):
                by_reason[reason].add(path.stem)
    return by_method, by_reason


def listing(title, names, found, exceptions=()):
    """Lines for people, and the names that nothing covers."""
    lines, missing = [title], []
    for name in names:
        if name in exceptions:
            lines.append(f"  {name:24} not covered: {exceptions[name]}")
        elif found[name]:
            lines.append(f"  {name:24} {', '.join(sorted(found[name]))}")
        else:
            lines.append(f"  {name:24} NOTHING")
            missing.append(name)
    return lines, missing
