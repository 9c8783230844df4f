"""A picture of the growth of a thread on disk."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.comparison import Row
from benchmarks.langgraph.options import Options, of_turns, size_names

LOOKS: dict[str, dict[str, Any]] = {
    "sqlite": {"label": "SqliteSaver", "color": "#b3552e", "marker": "s"},
    "walkv": {"label": "WalkvSaver", "color": "#1f6f8b", "marker": "o"},
}


def formats() -> list[str]:
    """The endings of file names that say a format."""
    return sorted(Figure().canvas.get_supported_filetypes())


def plot(rows: Iterable[Row], options: Options, path: Path) -> None:
    """Write it, in the format that the name says."""
    by_name = {row.name: row for row in rows}
    mpl.rcParams.update({"svg.hashsalt": "walkv", "font.size": 10})
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="turns, each of two messages of 1 KB")
    axes.set_ylabel("on disk after close")
    axes.set_title("What one LangGraph thread takes on disk", loc="left", fontsize=11)
    for side, looks in LOOKS.items():
        points = [
            (turns, size_bytes)
            for turns in options.growth_turns[side]
            if (row := by_name.get(size_names(of_turns(turns))[0]))
            and (size_bytes := row.median(side))
        ]
        axes.plot(*zip(*points, strict=True), linewidth=2, markersize=5, **looks)
        for at in points:
            axes.annotate(
                _readable(at[1]),
                at,
                xytext=(-6, 4) if side == "sqlite" else (4, -14),
                textcoords="offset points",
                ha="right" if side == "sqlite" else "left",
                fontsize=9,
                color=looks["color"],
            )
    axes.xaxis.set_major_locator(FixedLocator(sorted({*chain(*options.growth_turns.values())})))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _readable(value, digits=0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.12)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _readable(size_bytes: float, digits: int = 1) -> str:
    units = ["B", "KB", "MB", "GB"]
    while size_bytes >= 1000 and len(units) > 1:
        size_bytes /= 1000
        del units[0]
    return f"{size_bytes:,.{digits if size_bytes < 10 else 0}f} {units[0]}"
