"""What resident memory grew by, against the budgets and what the target allows."""

from typing import TYPE_CHECKING

from benchmarks.engines import SUBJECT
from benchmarks.figures import readable
from benchmarks.plots.results import Results
from benchmarks.plots.style import GREY, bar_look, footer, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = {"memory-fill": "fill", "memory-scan": "scan, reopened", "memory-get": "gets, reopened"}
LINES = {"memory-budget": "budgets", "memory-limit": "target"}
PANEL_INCHES = 1.5


def draw_memory(results: Results) -> "Figure | None":
    """A bar for each step; None if the run has none."""
    found = {row.name: row.medians[SUBJECT] for row in results.rows if SUBJECT in row.medians}
    bars = {title: found[name] for name, title in STEPS.items() if name in found}
    if not bars:
        return None
    data_mib = found.get("memory-data", 0)
    figure = sheet(
        f"Memory of walkv with {readable(data_mib)} MiB of values: peak growth, MiB",
        PANEL_INCHES,
        footer(results, "memory"),
        legend_room=False,
    )
    axes = figure.subplots()
    drawn = axes.barh(list(bars), list(bars.values()), height=0.6, **bar_look(SUBJECT))
    axes.bar_label(
        drawn,
        [readable(grown) for grown in bars.values()],
        padding=4,
        # A line behind a figure may not strike it through.
        bbox={"color": "white", "pad": 1},
        zorder=5,
    )
    for name, title in LINES.items():
        if name not in found:
            continue
        axes.axvline(found[name], color=GREY, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"{title}, {readable(found[name])}",
            (found[name], 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 2),
            textcoords="offset points",
            ha="right" if name == "memory-limit" else "left",
            color=GREY,
        )
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelcolor="black")
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(*bars.values(), found.get("memory-limit", 0)) * 1.08)
    return figure
