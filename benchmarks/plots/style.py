"""How every picture looks: one colour and one mark per engine, white paper, the same bytes again.

*Source*: the colours are those of Okabe and Ito, "Color Universal Design", which people tell apart
whatever their colour vision; marks differ too, so that the curves need no colour at all.
"""

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engines import SUBJECT
from benchmarks.plots.results import Curves, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 9.0
FOOTER_CHARACTERS = 175
FOOTER_LINE_INCHES = 0.15
TITLE_INCHES = 0.35
LEGEND_INCHES = 0.28
MARGIN = 0.008
"""Of the title, the legend and the footer: a share of the width."""
GREY = "#5a5a5a"

COLORS = {
    SUBJECT: "#d55e00",
    "sqlite3": "#0072b2",
    "lmdb": "#009e73",
    "plyvel": "#cc79a7",
    "rocksdict": "#56b4e9",
    "diskcache": "#999999",
}
MARKERS = {
    SUBJECT: "o",
    "sqlite3": "s",
    "lmdb": "^",
    "plyvel": "D",
    "rocksdict": "v",
    "diskcache": "X",
}
SETTINGS: dict[str, Any] = {
    # Without it the names of elements inside an SVG are random.
    "svg.hashsalt": SUBJECT,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "grid.color": "#e2e2e2",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    # Viewers with a dark background would otherwise show black text on it.
    "savefig.facecolor": "white",
}


@contextmanager
def settings() -> Iterator[None]:
    """Everything below is drawn and written inside this."""
    import matplotlib as mpl

    # matplotlib's stub wants a literal type of all its settings.
    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        yield


def sheet(
    title: str, height_inches: float, footer: Iterable[str], *, legend_room: bool = True
) -> "Figure":
    """White paper with a title, and a legend's room, above and a footer below `height_inches`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = [part for line in footer for part in textwrap.wrap(line, FOOTER_CHARACTERS)]
    footer_inches = FOOTER_LINE_INCHES * (len(lines) + 0.7)
    header_inches = TITLE_INCHES + (LEGEND_INCHES if legend_room else 0)
    height_inches += header_inches + footer_inches
    room = (
        0,
        footer_inches / height_inches,
        1,
        1 - (footer_inches + header_inches) / height_inches,
    )
    figure = Figure(
        figsize=(WIDTH_INCHES, height_inches),
        facecolor="white",
        layout=ConstrainedLayoutEngine(rect=room),
    )
    figure.text(
        MARGIN, 1 - 0.08 / height_inches, title, va="top", ha="left", fontsize=12, weight="bold"
    )
    figure.text(
        MARGIN,
        0.06 / height_inches,
        "\n".join(lines),
        va="bottom",
        ha="left",
        fontsize=7,
        color=GREY,
    )
    return figure


def footer(results: Results, group: str, *notes: str) -> list[str]:
    """What a picture's reader must know: what is not in it, and where it comes from."""
    return [*notes, *results.absences(group), results.origin()]


def line_look(engine: str) -> dict[str, Any]:
    """The look of an engine's curve; walkv's is thicker, and above the others."""
    subject = engine == SUBJECT
    return {
        "color": COLORS.get(engine, "black"),
        "marker": MARKERS.get(engine, "*"),
        "linewidth": 2.6 if subject else 1.4,
        "markersize": 5.5 if subject else 4.5,
        "zorder": 4 if subject else 3,
        "label": engine,
    }


def bar_look(engine: str) -> dict[str, Any]:
    """The look of an engine's bar; walkv's is outlined."""
    edge = "black" if engine == SUBJECT else "none"
    return {"color": COLORS.get(engine, "black"), "edgecolor": edge, "linewidth": 1.0}


def draw_curves(axes: "Axes", curves: Curves, **look: Any) -> None:
    """Draws a curve for each engine; `look` is common to all."""
    for engine, points in curves.items():
        axes.plot([x for x, _ in points], [y for _, y in points], **line_look(engine), **look)


def legend(figure: "Figure", axes: Iterable["Axes"]) -> None:
    """One legend for all axes, under the title."""
    handles = {
        label: handle
        for each in axes
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="upper left",
        bbox_to_anchor=(0, 1 - (TITLE_INCHES - 0.05) / figure.get_figheight()),
        ncols=max(len(handles), 1),
        fontsize=9,
        handlelength=2.2,
        columnspacing=1.6,
    )


def say_empty(axes: "Axes") -> None:
    """A panel for which the run has nothing."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=GREY)


def ticks_at(axes: "Axes", places: Iterable[float]) -> None:
    """Ticks of a log x axis at these places only, such as 1, 64, 10K."""
    ordered = sorted(set(places))
    axes.set_xticks(ordered, [short(place) for place in ordered])
    axes.set_xticks([], minor=True)


def plain_ticks(axes: "Axes") -> None:
    """Ticks of a log y axis in plain numbers, such as 0.1, 10, 10K."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    # With powers of ten alone, a reader of a short axis would find one tick or none.
    steps = (1.0,) if high / low > 200 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(10, subs=steps, numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def save(figure: "Figure", path: Path) -> None:
    """Writes it, in the format that the name says; an SVG without a date, so that the same result
    is the same file."""
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=100)


def short(value: float) -> str:
    """The number on a tick."""
    for limit, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "K")):
        if value >= limit:
            return f"{value / divisor:g}{suffix}"
    return f"{value:,g}"
