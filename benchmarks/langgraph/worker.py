"""Does one part on one side in this process: a JSON job on stdin, a JSON result on stdout.

*Layout*

====== ==================================================================================
job    ``{"part": name, "side": name, "directory": path, "options": {...}}``
result ``{"rows": [[name, guarantee, unit, figure], ...], "resources": {...}}`` or
       ``{"error": text}``; the resources are those of `benchmarks.resources`
====== ==================================================================================
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage

from benchmarks.langgraph import data
from benchmarks.langgraph.crowds import crowds
from benchmarks.langgraph.growth import growth
from benchmarks.langgraph.options import Measured, Options
from benchmarks.langgraph.sides import SIDES
from benchmarks.langgraph.thread import reads, turns
from benchmarks.langgraph.upkeep import copies, space
from benchmarks.resources import Meter

MEASURES: dict[str, Callable[[str, Path, Options], Iterator[Measured]]] = {
    "turns": turns,
    "reads": reads,
    "crowds": crowds,
    "copy": copies,
    "space": space,
    "growth": growth,
}
_WARM_UP_TURNS = 5


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Does a job; whatever goes wrong on a side is its result."""
    try:
        directory = Path(job["directory"])
        _warm_up(job["side"], directory)
        meter = Meter()
        rows = list(MEASURES[job["part"]](job["side"], directory, Options(**job["options"])))
        return {"rows": rows, "resources": meter.read(directory)}
    except Exception as error:  # noqa: BLE001 - a side may raise anything; it is shown
        return {"error": f"{type(error).__name__}: {error}"}


def _warm_up(side: str, directory: Path) -> None:
    """First turns on a store that is thrown away: they import and start what the others use."""
    said = iter(data.messages(0, 100, 4 * _WARM_UP_TURNS))
    with tempfile.TemporaryDirectory(dir=directory) as place:
        with SIDES[side].saver(Path(place), "process") as saver:
            graph = data.Talk(saver, said)
            for _ in range(_WARM_UP_TURNS):
                graph.turn("warm-up", "sync")
        asyncio.run(_warm_up_tasks(side, Path(place), said))


async def _warm_up_tasks(side: str, directory: Path, said: Iterator[BaseMessage]) -> None:
    async with SIDES[side].asaver(directory, "process") as saver:
        graph = data.Talk(saver, said, tasks=True)
        for _ in range(_WARM_UP_TURNS):
            await graph.aturn("warm-up of tasks", "sync")


if __name__ == "__main__":
    print(json.dumps(work(json.load(sys.stdin))))
