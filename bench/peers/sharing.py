"""Rows of several processes: clients at once, a process that finds files warm, a daemon's memory, a memory limit."""

import os
import pathlib
import time

import peers
import processes
from cases import Case, Context, Sample, prepare
from keyload_daemon import Daemon, NotAvailable
from keyload_loads import sample_of, verify

CGROUP = pathlib.Path("/sys/fs/cgroup/memory")  # version 1
CGROUP_BYTES = 1 << 30
PROCESS_BYTES = 300_000_000  # Python with torch


def four_peers(id: str, label: str, engine: str, data: str, clock: str, owned: bool) -> Case:
    """Four processes that load the same files. The time is the slowest one's, after imports."""

    def run(context: Context) -> Sample:
        set_ = context.data[data]
        needed = set_.bytes + (4 * set_.bytes if owned else 0) + 4 * PROCESS_BYTES
        if processes.available_bytes() < needed:
            raise NotAvailable(f"needs {needed / 1e9:.0f} GB of available memory")
        prepare(set_, "warm")
        command = peers.load_command(context, engine, set_.directory, "--checksums", str(set_.checksums))
        running = [processes.Running(command, peers.environment()) for _ in range(4)]
        samples = [peers.sample_of(process.wait(), clock) for process in running]
        return {"seconds": max(sample["seconds"] for sample in samples),
                "private": sum(sample["rss"] - sample["shared"] for sample in samples),
                "cpu": sum(sample["cpu"] for sample in samples)}

    return Case(id, label, run, peer=True)


def clients_materialize(id: str, label: str, data: str, count: int, include: str) -> Case:
    """A lazy load, then `count` commands at once for the same keys. The time is from the load to the last one's end."""

    def run(context: Context) -> Sample:
        prepare(context.data[data], "warm")
        with Daemon(context.binaries, context.root) as daemon:
            begin = time.perf_counter()
            daemon.run("load", "m", "--expected", "checkpoint", "--from", str(context.data[data].directory), "--lazy", "--copy")
            before, cpu = processes.io_bytes(daemon.pid), processes.cpu_seconds(daemon.pid)
            running = [daemon.start("materialize", "m", "--include", include) for _ in range(count)]
            answers = [daemon.answer(process.wait()) for process in running]
            seconds = time.perf_counter() - begin
            moved = processes.difference(processes.io_bytes(daemon.pid), before)
            memory = processes.memory_bytes(daemon.pid)
            cpu = processes.cpu_seconds(daemon.pid) - cpu
            checked = verify(context, daemon, id, data, only_some=True)
            return {"seconds": seconds, "command": seconds, **moved, **memory, **checked,
                    "bytes_selected": answers[0].document["bytes"]["selected"],
                    "private": memory["rss"], "cpu": cpu + sum(a.finished.cpu_seconds for a in answers)}

    return Case(id, label, run)


def ready(id: str, label: str, engine: str, data: str, state: str, *, transformers_4: bool = False) -> Case:
    """Another process's time until every byte is usable, without imports. State warmed: cold, then keyload --warm."""

    def run(context: Context) -> Sample:
        set_ = context.data[data]
        prepare(set_, "cold" if state == "warmed" else state)
        command_seconds = None
        if state == "warmed":
            with Daemon(context.binaries, context.root) as daemon:
                answer = daemon.run("load", "m", "--expected", "checkpoint", "--from", str(set_.directory), "--warm")
                command_seconds = answer.finished.seconds
        variables = peers.environment(peers.with_transformers_4(context) if transformers_4 else None)
        command = peers.load_command(context, engine, set_.directory, "--checksums", str(set_.checksums))
        sample = peers.sample_of(processes.run(command, variables), "usable")
        del sample["command"]  # of Python, with its imports and its checks
        return sample | ({"command": command_seconds} if command_seconds else {})

    return Case(id, label, run, reference=state != "warmed")


def index_memory() -> Case:
    """How much the daemon grows by registering the 91,991 keys; no tensor is resident."""

    def run(context: Context) -> Sample:
        with Daemon(context.binaries, context.root) as daemon:
            # A first request brings in what any request needs: threads, gRPC's buffers.
            daemon.run("plan", "other", "--expected", "checkpoint", "--from", str(context.data["large"].directory))
            idle = processes.memory_bytes(daemon.pid)
            answer = daemon.run("load", "m", "--expected", "checkpoint", "--from", str(context.data["sparse"].directory), "--lazy")
            loaded = processes.memory_bytes(daemon.pid)
            return {**sample_of(answer), "idle": idle["rss"], "grown": loaded["rss"] - idle["rss"],
                    "peak_grown": loaded["peak_rss"] - idle["rss"], **loaded}

    return Case("index-memory", "keyload, lazy model of 91,991 keys", run)


def limited(option: str) -> Case:
    """In a control group with less memory than the checkpoint: the daemon must live, and say what it did not keep."""

    def run(context: Context) -> Sample:
        if os.geteuid() != 0 or not (CGROUP / "memory.limit_in_bytes").exists():
            raise NotAvailable("needs root and the memory controller of control groups, version 1")
        group = CGROUP / f"keyload-bench-{os.getpid()}"
        group.mkdir()
        try:
            (group / "memory.limit_in_bytes").write_text(str(CGROUP_BYTES))
            return _run_limited(context, group, option)
        finally:
            group.rmdir()

    return Case(f"limited{option}", f"keyload load {option} of 4.3 GB in a control group of 1 GiB", run, most_runs=1)


def _run_limited(context: Context, group: pathlib.Path, option: str) -> Sample:
    set_ = context.data["large"]
    prepare(set_, "cold")
    with Daemon(context.binaries, context.root, cgroup=group) as daemon:
        finished = daemon.start("load", "m", "--expected", "checkpoint", "--from", str(set_.directory), option).wait()
        if "NOT_SUPPORTED" in finished.out:
            daemon.answer(finished)  # raises NotAvailable
        alive = daemon.start("plan", "other", "--expected", "checkpoint", "--from", str(set_.directory)).wait().code == 0 and daemon.alive
        return {"seconds": finished.seconds, "alive": float(alive), "exit_code": finished.code,
                "said": finished.out[:20000]}
