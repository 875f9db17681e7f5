"""What the benchmark must show, and whether it did: computed from the medians of one run."""

import collections.abc
import dataclasses

from summaries import Results, best_peer, bytes_text, median, ratio_text, seconds_text


@dataclasses.dataclass(frozen=True)
class Verdict:
    claim: str
    measured: str
    met: bool | None        # None: not measured
    command: str = ""       # the same with the time of the whole command
    command_met: bool | None = None


Target = collections.abc.Callable[[Results], Verdict]


def _within(claim: str, case: str, limit: float) -> Target:
    """The report's time is under `limit` seconds."""

    def judge(results: Results) -> Verdict:
        report, command = median(results, case, "report"), median(results, case, "command")
        if report is None or command is None:
            return Verdict(claim, "", None)
        return Verdict(claim, seconds_text(report), report < limit, seconds_text(command), command < limit)

    return judge


def _faster(claim: str, case: str, least: float, *, peer: str = "", group: str = "", peer_clock: str = "seconds",
            clock: str = "report") -> Target:
    """Faster than `peer`, or than the best peer of `group`, by `least`."""

    def judge(results: Results) -> Verdict:
        best = best_peer(results, group) if group else None
        name, theirs = best or (peer, median(results, peer, peer_clock) if peer else None)
        ours, command = median(results, case, clock), median(results, case, "command")
        if theirs is None or ours is None or command is None:
            return Verdict(claim, "", None)
        command += ours - (median(results, case, "report") or ours)  # a clock that goes on after the command
        text = f"{ratio_text(theirs / ours)} ({seconds_text(ours)}; {results[name]['label']}: {seconds_text(theirs)})"
        return Verdict(claim, text, theirs / ours >= least, f"{ratio_text(theirs / command)} ({seconds_text(command)})",
                       theirs / command >= least)

    return judge


def _near_disk(claim: str, case: str) -> Target:
    """At most 15 % slower than the faster of the plain O_DIRECT reads."""

    def judge(results: Results) -> Verdict:
        disk = [value for threads in (2, 16) if (value := median(results, f"direct-{threads}")) is not None]
        ours, command = median(results, case, "report"), median(results, case, "command")
        if not disk or ours is None or command is None:
            return Verdict(claim, "", None)
        plain = min(disk)
        return Verdict(claim, f"{ours / plain - 1:+.0%} ({seconds_text(ours)}; plain: {seconds_text(plain)})",
                       ours <= 1.15 * plain, f"{command / plain - 1:+.0%}", command <= 1.15 * plain)

    return judge


def _reads(claim: str, case: str) -> Target:
    """What the daemon's read calls returned, from /proc/PID/io, is at most 1.05 times the selected bytes."""

    def judge(results: Results) -> Verdict:
        moved, selected = median(results, case, "rchar"), median(results, case, "bytes_selected")
        if moved is None or not selected:
            return Verdict(claim, "", None)
        return Verdict(claim, f"{moved / selected:.3f} times ({bytes_text(moved)} of {bytes_text(selected)})",
                       moved <= 1.05 * selected)

    return judge


def _share_of_full(claim: str, part: str, full: str) -> Target:
    def judge(results: Results) -> Verdict:
        ours, all_ = median(results, part, "report"), median(results, full, "report")
        command, all_command = median(results, part, "command"), median(results, full, "command")
        if ours is None or all_ is None or command is None or all_command is None:
            return Verdict(claim, "", None)
        limit, command_limit = 0.04 * all_ + 0.02, 0.04 * all_command + 0.02
        return Verdict(claim, f"{seconds_text(ours)} (limit {seconds_text(limit)}, all: {seconds_text(all_)})",
                       ours <= limit, f"{seconds_text(command)} (limit {seconds_text(command_limit)})",
                       command <= command_limit)

    return judge


def _at_most(claim: str, case: str, fields: tuple[str, ...], limit: float) -> Target:
    def judge(results: Results) -> Verdict:
        found = [value for field in fields if (value := median(results, case, field)) is not None]
        if len(found) < len(fields):
            return Verdict(claim, "", None)
        return Verdict(claim, bytes_text(sum(found)), sum(found) <= limit)

    return judge


def _warmed(claim: str, group: str) -> Target:
    """Warming first gives at least four fifths of what a warm page cache gives."""

    def judge(results: Results) -> Verdict:
        cold, warmed, warm = (median(results, f"{group}-{state}") for state in ("cold", "warmed", "warm"))
        if cold is None or warmed is None or warm is None:
            return Verdict(claim, "", None)
        return Verdict(claim, f"{ratio_text(cold / warmed)} ({seconds_text(cold)} cold, {seconds_text(warmed)} after "
                       f"--warm; a warm page cache allows {ratio_text(cold / warm)})",
                       cold > warmed and cold / warmed >= 0.8 * cold / warm)

    return judge


def _alive(claim: str, case: str) -> Target:
    def judge(results: Results) -> Verdict:
        alive, code = median(results, case, "alive"), median(results, case, "exit_code")
        if alive is None or code is None:
            return Verdict(claim, "", None)
        return Verdict(claim, f"{'alive' if alive else 'dead'}, the command ended with {code:.0f}", bool(alive))

    return judge


def _owned(data: str, first: float, again: float, clone: tuple[float, float] | None) -> list[Target]:
    name = {"small": "91,991 small tensors", "large": "4.3 GB in large tensors"}[data]
    targets = []
    for suffix, text, least, position in (("first", "copied, first load", first, 0),
                                          ("reused", "copied, segments reused", again, 1),
                                          ("huge", "copied, huge pages, first load", again, 1),
                                          ("huge-reused", "copied, huge pages, segments reused", again, 1)):
        case = f"{data}-warm-copied-{suffix}"
        if clone:
            targets.append(_faster(f"{name}, {text}: {clone[position]:g} times faster than safetensors + clone", case,
                                   clone[position], peer=f"{data}-warm-clone"))
        targets.append(_faster(f"{name}, {text}: {least:g} times faster than any peer's owned load", case, least,
                               group=f"{data}-owned"))
    return targets


TARGETS: list[Target] = [
    _within("Plan of 91,991 keys in 163 shards, daemon fresh: under 150 ms", "plan-fresh", 0.150),
    _within("The same again: under 40 ms", "plan-again", 0.040),
    _within("All 91,991 keys missing: under 60 ms", "empty-fresh", 0.060),
    _within("The same, manifest known: under 60 ms", "empty-again", 0.060),
    *_owned("small", 4, 10, (8, 20)),
    _faster("91,991 small tensors, mapped, daemon fresh: 8 times faster than load_file to a usable handle",
            "small-warm-mapped", 8, peer="small-warm-mmap"),
    _faster("The same, headers known: 20 times", "small-warm-mapped-again", 20, peer="small-warm-mmap"),
    *_owned("large", 1.5, 8, None),
    _faster("4.3 GB mapped, every byte hashed: not slower than safetensors mmap", "large-warm-mapped", 1,
            peer="large-warm-mmap", peer_clock="usable", clock="usable"),
    _faster("The same to the handle alone, where load_file touches no byte", "large-warm-mapped", 1,
            peer="large-warm-mmap"),
    _faster("4.3 GB cold, copied: not slower than the best peer", "large-cold-copied-first", 1, group="large-cold"),
    _near_disk("4.3 GB cold, copied: within 15 % of a plain O_DIRECT read", "large-cold-copied-first"),
    _near_disk("The same, segments reused", "large-cold-copied-reused"),
    _faster("4.3 GB cold, mapped, every byte hashed: not slower than the best peer", "large-cold-mapped", 1,
            group="large-cold-mapped", clock="usable"),
    *[target for data in ("small", "large") for target in (
        _reads(f"2 % of {data}: reads at most 1.05 times its bytes (headers known)", f"{data}-subset-part-known"),
        _share_of_full(f"2 % of {data}, daemon fresh: at most 4 % of the full load and 20 ms", f"{data}-subset-part",
                       f"{data}-subset-full"),
        _share_of_full(f"2 % of {data}, headers known: the same", f"{data}-subset-part-known", f"{data}-subset-full"))],
    _within("Lazy load at real sizes, daemon fresh: under 200 ms", "lazy-fresh", 0.200),
    _at_most("Its resident bytes: none", "lazy-fresh", ("bytes_read", "bytes_mapped"), 0),
    _reads("Materialising one expert of it reads that expert alone", "sparse-expert"),
    _reads("The same of the small tensors", "small-expert"),
    _reads("32 clients that materialise the same keys read them once", "clients-32"),
    _at_most("The daemon's memory for the index of 91,991 keys: under 40 MB", "index-memory", ("grown",), 40e6),
    *[_warmed(f"A second process after --warm, {text}: as fast as the storage allows", f"ready-{group}")
      for text, group in (("load_file", "large-safetensors-mmap"), ("transformers 5", "llama-from_pretrained"),
                          ("transformers 4.57", "llama-from_pretrained-4"))],
    *[_alive(f"Control group of 1 GiB, load {option} of 4.3 GB: the daemon lives", f"limited{option}")
      for option in ("--copy", "--warm", "--hold")],
]


def judge(results: Results) -> list[Verdict]:
    return [target(results) for target in TARGETS]
