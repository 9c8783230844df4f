"""A picture of the growth of a thread on disk."""

from pathlib import Path
from typing import Any

from benchmarks.langgraph.upkeep import Size

LOOKS: dict[str, dict[str, Any]] = {
    "sqlite": {"label": "SqliteSaver", "color": "#b3552e", "marker": "s"},
    "walkv": {"label": "WalkvSaver", "color": "#1f6f8b", "marker": "o"},
}


def plot(grown: dict[int, list[Size]], path: Path) -> None:
    """Write it, in the format that the name says. Needs matplotlib (extra `bench`)."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    mpl.rcParams.update({"svg.hashsalt": "walkv", "font.size": 10})
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xscale="log", yscale="log", xlabel="turns, each of two messages of 1 KB")
    axes.set_ylabel("on disk after close")
    axes.set_title("What one LangGraph thread takes on disk", loc="left", fontsize=11)
    for side, looks in LOOKS.items():
        points = [
            (turns, size.closed_bytes)
            for turns, sizes in sorted(grown.items())
            for size in sizes
            if size.side == side
        ]
        turns, sizes_bytes = zip(*points, strict=True)
        axes.plot(turns, sizes_bytes, linewidth=2, markersize=5, **looks)
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
    axes.xaxis.set_major_locator(FixedLocator(sorted(grown)))
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
