"""Growth: each cost over the number of entries, both on log axes.

A cost per entry that stays level, and a cost of everything that rises by one power of ten with each
power of ten, are what linear growth looks like.
"""

from typing import TYPE_CHECKING

from benchmarks.plots.results import Results
from benchmarks.plots.style import (
    draw_curves,
    footer,
    legend,
    plain_ticks,
    say_empty,
    sheet,
    ticks_at,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (
    ("scale-fill", "Fill in batches, us per entry"),
    ("scale-get", "Get of random keys, us"),
    ("scale-scan", "Scan, us per entry"),
    ("scale-open", "Open, ms"),
    ("scale-first-get", "Open and get one key, ms"),
    ("scale-close", "Close after the fill, ms"),
    ("scale-fill-memory", "Peak memory growth of the fill, MiB"),
    ("scale-read-memory", "Peak memory growth of the reads, MiB"),
    ("scale-disk", "On disk, closed, bytes per entry"),
)
COLUMNS = 3
PANEL_INCHES = 2.2
MEMORY = ("scale-fill-memory", "scale-read-memory")
# Memory that does not grow at all has no place on a log axis.
SMALLEST_MIB = 0.1


def draw_scale(results: Results) -> "Figure | None":
    """All of `PANELS`; None if the run has nothing for any of them."""
    curves_by_series = {name: results.curves_of_rows(name) for name, _ in PANELS}
    if not any(curves_by_series.values()):
        return None
    lines = len(PANELS) // COLUMNS
    figure = sheet(
        "Cost over the number of entries (guarantee: process)",
        lines * PANEL_INCHES,
        footer(
            results,
            "scale",
            f"16-byte keys, {results.facts['options']['value_bytes']}-byte values. "
            f"Memory that grows by less is drawn at {SMALLEST_MIB} MiB; mapped files count.",
        ),
    )
    grid = figure.subplots(lines, COLUMNS, squeeze=False)
    for axes, (name, title) in zip(grid.flat, PANELS, strict=True):
        curves = curves_by_series[name]
        if name in MEMORY:
            curves = {
                engine: [(x, max(y, SMALLEST_MIB)) for x, y in points]
                for engine, points in curves.items()
            }
        if not curves:
            say_empty(axes)
            continue
        axes.set(xscale="log", yscale="log", title=title)
        draw_curves(axes, curves)
        axes.margins(x=0.08, y=0.12)
        ticks_at(axes, (x for points in curves.values() for x, _ in points))
        plain_ticks(axes)
    for axes in grid[-1]:
        axes.set_xlabel("entries")
    legend(figure, grid.flat)
    return figure
