"""Medians, ratios and plain text of measured values; pure functions of the results document.

Results: {case id: {"label", "group", "kind": "peer" | "keyload" | "reference", "samples": [...], "skipped": text}}.
"""

import dataclasses
import statistics

Results = dict[str, dict]


@dataclasses.dataclass(frozen=True)
class Summary:
    low: float
    median: float
    high: float


def values(results: Results, case: str, field: str) -> list[float]:
    samples = results.get(case, {}).get("samples", [])
    return [sample[field] for sample in samples if field in sample]


def summary(results: Results, case: str, field: str = "seconds") -> Summary | None:
    found = values(results, case, field)
    return Summary(min(found), statistics.median(found), max(found)) if found else None


def median(results: Results, case: str, field: str = "seconds") -> float | None:
    found = summary(results, case, field)
    return found.median if found else None


def best_peer(results: Results, group: str) -> tuple[str, float] | None:
    """The group's peer with the lowest median: its case and seconds."""
    found = [(value, case) for case, entry in results.items() if entry["group"] == group and entry["kind"] == "peer"
             and (value := median(results, case)) is not None]
    return min(found)[::-1] if found else None


def seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def bytes_text(count: float | None) -> str:
    if count is None:
        return ""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def ratio_text(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.1f}x" if ratio < 100 else f"{ratio:,.0f}x"


def table(header: list[str], rows: list[list[str]], right: int) -> str:
    """Markdown; the last `right` columns are aligned to the right."""
    left = len(header) - right
    lines = [header, *[["---"] * left + ["---:"] * right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
