"""All pictures of a run, and their names."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.plots.bars import draw_bars
from benchmarks.plots.concurrency import draw_concurrency
from benchmarks.plots.latency import draw_latency
from benchmarks.plots.memory import draw_memory
from benchmarks.plots.results import Results
from benchmarks.plots.scale import draw_scale
from benchmarks.plots.style import save, settings
from benchmarks.plots.sustained import draw_sustained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN_PICTURES: dict[str, Callable[[Results], "Figure | None"]] = {
    "concurrency": draw_concurrency,
    "latency": draw_latency,
    "memory": draw_memory,
    "scale": draw_scale,
    "sustained": draw_sustained,
}
"""The groups whose rows say more in another form than bars."""
WITHOUT_BARS = ("memory",)


def draw_all(results: Results, directory: Path, extension: str) -> Iterator[tuple[Path, bool]]:
    """Draws all pictures into `directory`; of each, its path and whether there was one to draw."""
    pictures: dict[str, Callable[[], Figure | None]] = {}
    for group, guarantee in dict.fromkeys((row.group, row.guarantee) for row in results.rows):
        if group not in WITHOUT_BARS:
            pictures[f"{guarantee}-{group}"] = partial(draw_bars, results, group, guarantee)
    for group, draw in OWN_PICTURES.items():
        pictures[group] = partial(draw, results)
    with settings():
        for name, draw_picture in pictures.items():
            path = directory / f"benchmarks-{name}.{extension}"
            figure = draw_picture()
            if figure is not None:
                save(figure, path)
            elif name not in OWN_PICTURES:
                continue
            yield path, figure is not None
