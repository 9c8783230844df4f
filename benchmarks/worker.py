"""Runs one step of one engine in this process: a JSON job on stdin, a JSON result on stdout.

*Layout*

====== ==================================================================================
job    ``{"engine": name, "step": name or null, "directory": path, "options": {...}}``
result ``{"version": text, "figures": {metric: number}, "series": {name: [[x, y], ...]},
       "resources": {...}}`` or ``{"error": text}``; the resources are those of `resources`
====== ==================================================================================

A job without a step only imports the engine: the way to learn whether it is there.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES
from benchmarks.resources import Meter
from benchmarks.workloads import STEPS
from benchmarks.workloads.base import Context, Options


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Runs a job; whatever goes wrong in an engine is its result."""
    try:
        # Also imports the engine, so that no step measures an import.
        version = ENGINES[job["engine"]].version()
        if job["step"] is None:
            return {"version": version}
        context = Context(job["engine"], Path(job["directory"]), Options(**job["options"]))
        meter = Meter()
        figures = STEPS[job["step"]](context)
        return {
            "version": version,
            "figures": figures,
            "series": context.series,
            "resources": meter.read(context.directory),
        }
    except Exception as error:  # noqa: BLE001 - an engine may raise anything; it is shown in its row
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print(json.dumps(work(json.load(sys.stdin))))
