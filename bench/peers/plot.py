"""The picture of docs/benchmarks.md: medians of the compared groups on a logarithmic scale."""

import pathlib

from summaries import Results, median, seconds_text

SHOWN = {"small-owned": "91,991 small tensors, owned copies", "small-mapped": "91,991 small tensors, mapped",
         "large-owned": "4.3 GB in 48 tensors, owned copies", "large-cold": "4.3 GB in 48 tensors, cold"}
COLOURS = {"peer": "#9a9a9a", "reference": "#d8c27a", "keyload": "#2a6fb0"}


def draw(results: Results, path: pathlib.Path) -> None:
    """Writes an SVG; groups without figures are left out, and nothing is written if all are."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "keyload"  # the same picture for the same figures
    bars = {group: sorted((value, entry["label"], entry["kind"]) for case, entry in results.items()
                          if entry["group"] == group and (value := median(results, case)) is not None)
            for group in SHOWN}
    bars = {group: found for group, found in bars.items() if found}
    if not bars:
        return
    figure, all_axes = pyplot.subplots(len(bars), 1, figsize=(9, 0.7 * len(bars) + 0.3 * sum(map(len, bars.values()))),
                                       height_ratios=[len(found) + 1 for found in bars.values()], squeeze=False)
    for (group, found), axes in zip(bars.items(), all_axes[:, 0], strict=True):
        found = found[::-1]
        axes.barh([label for _, label, _ in found], [value for value, _, _ in found],
                  color=[COLOURS[kind] for _, _, kind in found])
        for row, (value, _, _) in enumerate(found):
            axes.text(value, row, f" {seconds_text(value)}", va="center", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(right=2.5 * max(value for value, _, _ in found))
        axes.set_title(SHOWN[group], fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1, 0].set_xlabel("seconds, median; shorter is better", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
