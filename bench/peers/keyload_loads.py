"""keyload's rows: one command against a daemon of its own, measured inside by its report and outside as a whole."""

import contextlib
import dataclasses
import json
import pathlib

import processes
from cases import HUGE_PAGE_BYTES, Case, Context, Sample, huge_pages, prepare
from keyload_daemon import Answer, Daemon, NotAvailable

HASH_MAPPED = pathlib.Path(__file__).with_name("hash_mapped.py")
VERIFY = pathlib.Path(__file__).with_name("keyload_verify.py")
REUSE = ("--reuse-memory", "8GiB")
Command = tuple[str, ...]  # <small>, <empty_manifest> ... stand for paths


@dataclasses.dataclass(frozen=True)
class Load:
    """`before` puts the daemon into the state of the row; then the page cache is prepared, and `measured` is timed."""

    measured: Command
    data: str
    state: str = "warm"
    before: tuple[Command, ...] = ()
    flags: Command = ()
    huge: bool = False    # the daemon starts with huge pages for the whole set
    verify: str = ""      # after the first run every tensor is read back; "some": only those that are resident
    mapped: bool = False  # another process then maps the files and hashes every byte: the report and that are `usable`
    clock: str = "report"


def fill(command: Command, context: Context) -> Command:
    names = {name: str(data.directory) for name, data in context.data.items()}
    names |= {f"{name}_manifest": str(data.manifest) for name, data in context.data.items()}
    paths = {f"<{name}>": path for name, path in names.items()}
    return tuple(paths.get(word, word) for word in command)


def verify(context: Context, daemon: Daemon, id: str, data: str, only_some: bool) -> Sample:
    """Once per case: all bytes through ReadTensors, hashed and compared with plain reads of the files."""
    if id in context.verified:
        return {}
    arguments = [daemon.address, "m", str(context.data[data].checksums), *(["--some"] if only_some else [])]
    finished = processes.run([str(context.python), "-B", str(VERIFY), *arguments])
    if finished.code != 0:
        raise RuntimeError(f"verification failed: {finished.err[-500:]}{finished.out[-500:]}")
    context.verified.add(id)
    return {"checked": json.loads(finished.out)["checked"]}


def sample_of(answer: Answer) -> Sample:
    report = answer.document
    if report["outcome"] in ("FAILED", "CANCELLED", "REJECTED"):
        raise RuntimeError(f"{report['outcome']}: {report['error']}")
    return {"report": report["totalSeconds"], "seconds": report["totalSeconds"], "command": answer.finished.seconds,
            "bytes_selected": report["bytes"]["selected"], "bytes_read": report["bytes"]["read"],
            "bytes_mapped": report["bytes"]["mapped"], "tensors": report["keys"]["selected"],
            **{f"phase_{phase['name']}": phase["seconds"] for phase in report["phases"]}}


@contextlib.contextmanager
def huge_pages_for(context: Context, load: Load):
    if not load.huge:
        yield
        return
    if not context.allow_huge_pages:
        raise NotAvailable("huge pages only with --huge-pages")
    wanted = context.data[load.data].bytes // HUGE_PAGE_BYTES + 256
    with huge_pages(wanted) as given:
        if given < wanted:
            raise NotAvailable(f"the kernel gave {given} of {wanted} huge pages")
        yield


def measure(context: Context, id: str, load: Load) -> Sample:
    flags = (*load.flags, "--huge-pages", "require") if load.huge else load.flags
    with huge_pages_for(context, load), Daemon(context.binaries, context.root, flags) as daemon:
        for command in load.before:
            daemon.run(*fill(command, context))
        prepare(context.data[load.data], load.state)
        processes.reset_peak(daemon.pid)
        before, cpu = processes.io_bytes(daemon.pid), processes.cpu_seconds(daemon.pid)
        answer = daemon.run(*fill(load.measured, context))
        sample = sample_of(answer)
        sample |= processes.difference(processes.io_bytes(daemon.pid), before)
        sample |= processes.memory_bytes(daemon.pid)
        sample["cpu"] = processes.cpu_seconds(daemon.pid) - cpu + answer.finished.cpu_seconds
        if load.mapped:
            files = map(str, context.data[load.data].files)
            hashed = processes.run([str(context.python), "-B", str(HASH_MAPPED), *files])
            sample["usable"] = sample["report"] + float(hashed.out)
        sample["seconds"] = sample[load.clock]
        if load.verify:
            sample |= verify(context, daemon, id, load.data, load.verify == "some")
    return sample


def keyload(id: str, label: str, load: Load, reference: bool = False) -> Case:
    return Case(id, label, lambda context: measure(context, id, load), reference=reference)


def copied(data: str, state: str) -> tuple[Case, ...]:
    """Into resident memory that other processes can map."""
    load = ("load", "m", "--expected", "checkpoint", "--from", f"<{data}>", "--copy")
    again = (load, ("unload", "m"))
    prefix = f"{data}-{state}-copied"
    return (
        keyload(f"{prefix}-first", "keyload --copy, first load", Load(load, data, state, verify="all")),
        keyload(f"{prefix}-reused", "keyload --copy, segments reused",
                Load(load, data, state, before=again, flags=REUSE, verify="all")),
        keyload(f"{prefix}-huge", "keyload --copy, huge pages, first load",
                Load(load, data, state, huge=True, flags=REUSE, verify="all")),
        keyload(f"{prefix}-huge-reused", "keyload --copy, huge pages, segments reused",
                Load(load, data, state, before=again, flags=REUSE, huge=True, verify="all")),
    )


def mapped(data: str, state: str, clock: str) -> tuple[Case, ...]:
    load = ("load", "m", "--expected", "checkpoint", "--from", f"<{data}>")
    return (
        keyload(f"{data}-{state}-mapped", "keyload, mapped, daemon fresh",
                Load(load, data, state, mapped=True, clock=clock, verify="all")),
        keyload(f"{data}-{state}-mapped-again", "keyload, mapped, headers known",
                Load(load, data, state, before=(load, ("unload", "m")), mapped=True, clock=clock, verify="all")),
    )


def planned() -> tuple[Case, ...]:
    plan = ("plan", "m", "--expected", "checkpoint", "--from", "<sparse>")
    lazy = ("load", "m", "--expected", "checkpoint", "--from", "<sparse>", "--lazy")
    return (
        keyload("plan-fresh", "keyload plan, daemon fresh", Load(plan, "sparse", "as is")),
        keyload("plan-again", "keyload plan, again", Load(plan, "sparse", "as is", before=(plan,))),
        keyload("lazy-fresh", "keyload load --lazy, daemon fresh", Load(lazy, "sparse", "as is")),
        keyload("lazy-again", "keyload load --lazy, headers known", Load(lazy, "sparse", "as is", before=(plan,))),
    )


def all_missing() -> tuple[Case, ...]:
    load = ("load", "m", "--from", "<empty>", "--manifest", "<empty_manifest>", "--allow-no-weights", "--device-map",
            "auto")
    flags = ("--simulate-gpus", "8x141GiB")
    return (
        keyload("empty-fresh", "keyload, manifest sent", Load(load, "empty", "as is", flags=flags)),
        keyload("empty-again", "keyload, manifest known",
                Load(load, "empty", "as is", before=(load, ("unload", "m")), flags=flags)),
    )


def subset(data: str, glob: str) -> tuple[Case, ...]:
    full = ("load", "m", "--expected", "checkpoint", "--from", f"<{data}>", "--copy")
    part = (*full, "--include", glob)
    plan = ("plan", "m", "--expected", "checkpoint", "--from", f"<{data}>")
    prefix = f"{data}-subset"
    return (
        keyload(f"{prefix}-full", "keyload --copy, all, daemon fresh", Load(full, data), reference=True),
        keyload(f"{prefix}-part", "keyload --copy, 2 %, daemon fresh", Load(part, data, verify="some")),
        keyload(f"{prefix}-part-known", "keyload --copy, 2 %, headers known",
                Load(part, data, before=(plan,), verify="some")),
    )


def one_expert(data: str, glob: str) -> Case:
    load = ("load", "m", "--expected", "checkpoint", "--from", f"<{data}>", "--lazy", "--copy")
    # The data of the sparse set has no reference: it is all holes.
    return keyload(f"{data}-expert", f"keyload materialize, one expert of {data}",
                   Load(("materialize", "m", "--include", glob), data, "as is", before=(load,),
                        verify="" if data == "sparse" else "some"))
