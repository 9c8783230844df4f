"""Latency: how slow the slowest operations are, at rest and while compaction runs."""

from math import log10
from typing import TYPE_CHECKING

from benchmarks.plots.results import Curves, Results
from benchmarks.plots.style import draw_curves, footer, legend, plain_ticks, say_empty, sheet
from benchmarks.workloads.latency import PHASES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPERATIONS = {"put": "Put", "get": "Get"}
TICKS = {50.0: "p50", 90.0: "p90", 99.0: "p99", 99.9: "p99.9", 99.99: "p99.99"}
PANEL_INCHES = 2.7
# The maximum is beyond every percentile; this is where it is drawn.
MAXIMUM_PLACE = 4.7


def draw_latency(results: Results) -> "Figure | None":
    """A panel for each operation and phase; None if the run has no latencies."""
    found = {
        (operation, phase): _placed(results.curves_of_steps(f"latency-{operation}-{phase}"))
        for operation in OPERATIONS
        for phase in PHASES
    }
    if not any(found.values()):
        return None
    figure = sheet(
        "Latency percentiles (guarantee: process)",
        len(OPERATIONS) * PANEL_INCHES,
        footer(
            results,
            "latency",
            "The median of the repetitions at each percentile. Gets are of random entries, "
            "with a put after each; at rest they are of a settled store, opened again.",
        ),
    )
    grid = figure.subplots(len(OPERATIONS), len(PHASES), squeeze=False, sharey="row")
    for axes, ((operation, phase), curves) in zip(grid.flat, found.items(), strict=True):
        if not curves:
            say_empty(axes)
            continue
        axes.set(yscale="log", title=f"{OPERATIONS[operation]}, {PHASES[phase]}")
        draw_curves(axes, curves)
        axes.set_xticks([*map(_place, TICKS), MAXIMUM_PLACE], [*TICKS.values(), "max"], minor=False)
        axes.label_outer()
        axes.tick_params(labelbottom=True)
    for line in grid:
        measured = [axes for axes in line if axes.axison]
        for axes in measured[:1]:
            axes.set_ylabel("us")
            plain_ticks(axes)
    legend(figure, grid.flat)
    return figure


def _placed(curves: Curves) -> Curves:
    return {
        engine: [(_place(percent), latency_us) for percent, latency_us in points]
        for engine, points in curves.items()
    }


def _place(percent: float) -> float:
    """One step to the right for each nine."""
    return MAXIMUM_PLACE if percent >= 100 else -log10(1 - percent / 100)
