"""Throughput over time, while compaction runs beside the fill."""

from typing import TYPE_CHECKING

from benchmarks.plots.results import Results
from benchmarks.plots.style import draw_curves, footer, legend, plain_ticks, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = 3.8


def draw_sustained(results: Results) -> "Figure | None":
    """The rate of each window of the sustained fill; None if the run has none."""
    curves = results.curves_of_steps("sustained-rate")
    if not curves:
        return None
    kept = next((row.medians for row in results.rows if row.name == "sustained-kept"), {})
    kept_text = ", ".join(f"{engine} {share:.0%}" for engine, share in kept.items())
    figure = sheet(
        "Throughput while a fill goes on (guarantee: process)",
        PANEL_INCHES,
        footer(
            results,
            "sustained",
            "Each point is the rate of one window of a fiftieth of the entries, the median of the "
            "repetitions.",
            f"The last tenth's rate over the first's: {kept_text or 'not measured'}.",
        ),
    )
    axes = figure.subplots()
    axes.set(yscale="log", xlabel="entries put one by one, in scattered order", ylabel="puts/s")
    draw_curves(axes, curves, markevery=5)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    plain_ticks(axes)
    legend(figure, [axes])
    return figure
