"""Checks that the source tree keeps the shape that docs/architecture.md describes.

    python3 check_includes.py [ROOT]

Prints one line for each violation and ends with 1 if there is any.
"""

import pathlib
import re
import sys

import anonymous_names

# Which folders of server/ a folder may include. The flow is one way: a folder may only name folders above it, so the table
# has no cycle by construction. Allow a new edge here and in the folder's CMakeLists.txt together.
ALLOWED = {
    "base": set(),
    "config": {"base"},
    "access": {"base"},
    "attach": {"access", "base"},
    "state": {"base"},
    "checkpoint": {"base"},
    "io": {"base"},
    "device": {"base"},
    "tensor": {"base", "checkpoint"},
    "keys": {"base", "checkpoint"},
    "expected": {"base", "checkpoint", "keys"},
    "placement": {"base", "keys"},
    "plan": {"base", "checkpoint", "keys", "placement", "tensor"},
    "report": {"base", "keys", "placement"},
    "metrics": {"base", "report"},
    "store": {"base", "device", "io", "keys", "plan", "report"},
    "lifecycle": {"base", "report", "store"},
    "load": {"base", "device", "io", "plan", "report", "store", "tensor"},
    "service": {"base", "checkpoint", "device", "expected", "io", "keys", "lifecycle", "load", "metrics", "placement", "plan",
                "report", "state", "store", "tensor"},
    "rpc": {"access", "base", "keys", "lifecycle", "metrics", "placement", "report", "service"},
}
# Headers that only these places may include.
RESERVED = [
    ("LibTorch", re.compile(r"^(ATen|c10|torch|caffe2)/"), ("server/tensor/",)),
    ("protobuf messages", re.compile(r"\.pb\.h$"), ("server/rpc/", "client/", "tests/", "bench/")),
    ("gRPC", re.compile(r"^grpc(pp)?/"), ("server/rpc/", "client/", "tests/", "bench/")),
    ("prometheus-cpp", re.compile(r"^prometheus/"), ("server/metrics/",)),
    ("the CUDA driver", re.compile(r"^cuda.*\.h$"), ("server/device/", "tests/")),
]
MAX_LINES = 400
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
TOP_FOLDERS = ("attach", "server", "client", "tests", "bench")
# Of server/, what needs no library: the client and what it shares with the server may include these headers.
HEADERS_ALONE = ("server/base/fd.h",)


def source_files(root):
    for top in TOP_FOLDERS:
        for path in sorted((root / top).rglob("*")):
            if path.suffix in (".h", ".cc") and path.is_file():
                yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def check_table():
    above = set()
    for folder, allowed in ALLOWED.items():
        for name in sorted(allowed - above):
            yield f"check_includes.py: {folder} may include {name}, which does not stand above it"
        above.add(folder)


def check_folder_include(name, target):
    """`name` in attach/, server/ or client/ includes "server/..." or "client/...": is the edge allowed?"""
    parts = name.split("/")
    if parts[0] == "attach":
        if target.startswith(("server/", "client/", "tests/", "bench/")) and target not in HEADERS_ALONE:
            yield "what server and client share to attach stands alone"
        return
    if parts[0] == "client":
        allowed = ("server/base/",) if name.startswith("client/cli/") else HEADERS_ALONE
        if target.startswith(("server/", "tests/")) and not target.startswith(allowed):
            yield "the client library stands alone; the command may use server/base besides"
        return
    if parts[0] != "server":
        return
    if target.startswith(("client/", "tests/", "bench/")):
        yield "the server uses neither the client nor the tests"
    if not target.startswith("server/") or len(parts) == 2:  # server/main.cc builds everything
        return
    folder, other = parts[1], target.split("/")[1]
    if folder not in ALLOWED:
        yield f"folder server/{folder} is not in the table"
    elif other != folder and other not in ALLOWED[folder]:
        yield f"server/{folder} may not depend on server/{other}"


def check_file(name, text):
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        yield f"{name}: {len(lines)} lines, at most {MAX_LINES}: split it"
    if name.endswith(".h") and "#pragma once" not in lines[:1]:
        yield f"{name}:1: a header starts with #pragma once"
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        if target.startswith(".") or "/../" in target:
            yield f'{name}:{number}: "{target}": include by the path from the repository\'s root'
        for why in check_folder_include(name, target):
            yield f'{name}:{number}: "{target}": {why}'
        for what, pattern, places in RESERVED:
            if pattern.search(target) and not name.startswith(places):
                yield f'{name}:{number}: "{target}": {what} belong(s) in {", ".join(places)} only'


def read_lists(path):
    """A CMakeLists.txt, and again for each value of each of its foreach loops with the variable filled in."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    filled = [text]
    for variable, items in re.findall(r"foreach\((\w+) ([^)]*)\)", text):
        filled += [text.replace("${%s}" % variable, item) for item in items.split()]
    return "\n".join(filled)


def check_listed(root, names):
    """Every .cc is named in a CMakeLists.txt of its folder or one above; a file that CMake does not know rots."""
    texts = {}
    for name in names:
        if not name.endswith(".cc"):
            continue
        folders = [parent for parent in pathlib.PurePosixPath(name).parents if str(parent) != "."]
        for folder in folders:
            path = root / folder / "CMakeLists.txt"
            if path not in texts:
                texts[path] = read_lists(path)
            relative = pathlib.PurePosixPath(name).relative_to(folder).as_posix()
            if re.search(rf"(?<![\w./-]){re.escape(relative)}(?![\w./-])", texts[path]):
                break
        else:
            yield f"{name}: no CMakeLists.txt names it"


def violations(root):
    yield from check_table()
    files = dict(source_files(root))
    for name, text in files.items():
        yield from check_file(name, text)
    yield from check_listed(root, files)
    yield from anonymous_names.violations(files.items())


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    found = list(violations(root))
    print("\n".join(found) if found else "the source tree keeps its shape")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
