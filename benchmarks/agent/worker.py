"""Does one part on one side in this process: a JSON job on stdin, a JSON result on stdout.

*Layout*

====== ==================================================================================
job    ``{"side": name, "calling": calling, "part": name or null, "fill": whether to fill,``
       ``"directory": path, "options": {...}}``
result ``{"version": text, "configuration": text, "resources": {...},``
       ``"rows": [[name, guarantee, figure], ...]}`` or ``{"error": text}``; the resources
       are those of `benchmarks.resources`
====== ==================================================================================

A job without a part only imports the side: the way to learn whether it is there.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.agent.options import Options
from benchmarks.agent.parts import PARTS
from benchmarks.agent.sides import side_class
from benchmarks.agent.tasks import AsyncWork
from benchmarks.agent.threads import Measured, Work
from benchmarks.resources import Meter


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Does a job; whatever goes wrong on a side is its result."""
    try:
        made = side_class(job["calling"], job["side"])
        meter = Meter()
        rows = [] if job["part"] is None else _measured(made, job)
        return {
            "version": made.version(),
            "configuration": made.configuration,
            "resources": meter.read(Path(job["directory"])),
            "rows": rows,
        }
    except Exception as error:  # noqa: BLE001 - a side may raise anything; it is shown
        return {"error": f"{type(error).__name__}: {error}"}


def _measured(made: Any, job: dict[str, Any]) -> list[Measured]:
    part, options = PARTS[job["part"]], Options(**job["options"])
    directory = Path(job["directory"])
    if part.calling == "tasks":
        return asyncio.run(_collected(part.measure(AsyncWork(made, directory, options))))
    of_side = Work(made, directory, options)
    if job["fill"]:
        assert part.fill is not None
        part.fill(of_side)
        return []
    return list(part.measure(of_side))  # type: ignore[arg-type]  # an iterator: told by the calling


async def _collected(rows: Any) -> list[Measured]:
    return [row async for row in rows]


if __name__ == "__main__":
    print(json.dumps(work(json.load(sys.stdin))))
