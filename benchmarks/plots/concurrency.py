"""Durable commits per second over the number of threads, and of asyncio tasks, that commit."""

from typing import TYPE_CHECKING

from benchmarks.plots.results import Results
from benchmarks.plots.style import draw_curves, footer, legend, plain_ticks, sheet, ticks_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP = "concurrency"
WRITERS = {"commit-threads": "threads", "commit-tasks": "asyncio tasks"}
PANEL_INCHES = 3.3


def draw_concurrency(results: Results) -> "Figure | None":
    """A panel for each series of the concurrency rows; None if the run has none."""
    titles = {
        row.series: (row.unit, row.guarantee)
        for row in results.rows
        if row.group == GROUP and row.series and row.medians
    }
    if not titles:
        return None
    guarantees = ", ".join(sorted({guarantee for _, guarantee in titles.values()}))
    figure = sheet(
        f"Commits per second of many writers at once (guarantee: {guarantees})",
        PANEL_INCHES,
        footer(results, GROUP, "Tasks reach engines without an asyncio face through threads."),
    )
    panels = figure.subplots(1, len(titles), squeeze=False, sharey=True)[0]
    for axes, series in zip(panels, titles, strict=True):
        curves = results.curves_of_rows(series)
        axes.set(xscale="log", yscale="log", xlabel=WRITERS.get(series, series))
        draw_curves(axes, curves)
        axes.margins(x=0.08)
        ticks_at(axes, (x for points in curves.values() for x, _ in points))
    panels[0].set_ylabel(", ".join(sorted({unit for unit, _ in titles.values()})))
    plain_ticks(panels[0])
    legend(figure, panels)
    return figure
