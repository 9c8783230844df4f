"""Bars: a panel for each row, a bar for each engine, and walkv's ratio to its best peer.

Each panel has an axis of its own, because a row is compared across engines and not with other rows.
"""

import textwrap
from typing import TYPE_CHECKING, Any

from benchmarks.engines import SUBJECT
from benchmarks.figures import readable
from benchmarks.plots.results import Results, Row
from benchmarks.plots.style import GREY, bar_look, footer, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"ycsb": "YCSB"}
COLUMNS = 3
BAR_INCHES = 0.17
HEADER_INCHES = 0.92
DESCRIPTION_CHARACTERS = 44
# Beyond this, bars of the smaller figures could not be told apart on a linear axis.
LOG_FROM_RATIO = 30
# Room to the right of the longest bar, for its figure.
LABEL_ROOM = 1.28
BETTER = "#00664c"
WORSE = "#a3291c"


def draw_bars(results: Results, group: str, guarantee: str) -> "Figure | None":
    """The rows of a group in a guarantee class that are no points of a curve; None without any."""
    rows = [
        row
        for row in results.rows
        if row.group == group and row.guarantee == guarantee and row.series is None and row.medians
    ]
    if not rows:
        return None
    lines = -(-len(rows) // COLUMNS)
    figure = sheet(
        f"{TITLES.get(group, group.capitalize())} (guarantee: {guarantee})",
        lines * (HEADER_INCHES + BAR_INCHES * len(results.engines)),
        footer(
            results,
            group,
            "The ratio is walkv's cost over that of the best peer, below 1 is better than every "
            "peer; for rates, where longer bars are better, the cost is the inverse.",
        ),
        legend_room=False,
    )
    panels = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
    for panel, row in zip(panels, rows, strict=False):
        _draw_row(panel, row, results.engines)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    return figure


def _draw_row(axes: "Axes", row: Row, engines: tuple[str, ...]) -> None:
    positive = [median for median in row.medians.values() if median > 0]
    logarithmic = bool(positive) and max(positive) / min(positive) > LOG_FROM_RATIO
    highest = max(positive, default=1.0)
    if logarithmic:
        lowest = min(positive) / 3
        axes.set_xscale("log")
        axes.set_xlim(lowest, highest * (highest / lowest) ** (LABEL_ROOM - 1))
    else:
        axes.set_xlim(0, highest * LABEL_ROOM)
    for place, engine in enumerate(engines):
        _draw_bar(axes, place, engine, row.medians.get(engine))
    axes.set_ylim(len(engines) - 0.4, -0.6)
    axes.set_yticks(range(len(engines)), engines, fontsize=8)
    for label, engine in zip(axes.get_yticklabels(), engines, strict=True):
        label.set_fontweight("bold" if engine == SUBJECT else "normal")
        label.set_color("black")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    _title(axes, row, logarithmic)


def _draw_bar(axes: "Axes", place: int, engine: str, median: float | None) -> None:
    left = axes.get_xlim()[0]
    text = "not measured" if median is None else readable(median)
    if median:
        axes.barh(place, median - left, left=left, height=0.74, **bar_look(engine))
    axes.annotate(
        text,
        (max(median or left, left), place),
        xytext=(3, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=8,
        weight="bold" if engine == SUBJECT else "normal",
        color=GREY if median is None else "black",
    )


def _title(axes: "Axes", row: Row, logarithmic: bool) -> None:
    described = f"{row.unit}: {row.description}" + (" (log axis)" if logarithmic else "")
    lines = textwrap.wrap(described, DESCRIPTION_CHARACTERS, max_lines=2, placeholder="...")
    ratio = row.times_best_peer_cost.get(SUBJECT)
    _write(axes, 34, row.name, fontsize=9, weight="bold")
    _write(axes, 24, lines[0], fontsize=7, color=GREY)
    _write(axes, 15, lines[1] if len(lines) > 1 else "", fontsize=7, color=GREY)
    if ratio is not None:
        _write(
            axes,
            3,
            f"{readable(ratio)}x the cost of {row.best_peer}",
            fontsize=8,
            weight="bold",
            color=BETTER if ratio <= 1 else WORSE,
        )


def _write(axes: "Axes", height_points: float, text: str, **look: Any) -> None:
    """A line of text above the panel."""
    axes.annotate(
        text,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, height_points),
        textcoords="offset points",
        **look,
    )
