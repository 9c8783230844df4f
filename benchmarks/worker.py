"""Runs one step of one engine in this process: a JSON job on stdin, a JSON result on stdout.

*Layout*

====== ==========================================================================
job    ``{"engine": name, "step": name or null, "directory": path, "options": {...}}``
result ``{"version": text, "figures": {metric: number}}`` or ``{"error": text}``
====== ==========================================================================

A job without a step only imports the engine: the way to learn whether it is there.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES
from benchmarks.workloads import STEPS, Context, Options


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Runs a job; whatever goes wrong in an engine is its result."""
    try:
        # Also imports the engine, so that no step measures an import.
        version = ENGINES[job["engine"]].version()
        if job["step"] is None:
            return {"version": version, "figures": {}}
        context = Context(job["engine"], Path(job["directory"]), Options(**job["options"]))
        return {"version": version, "figures": STEPS[job["step"]](context)}
    except Exception as error:  # noqa: BLE001 - an engine may raise anything; it is shown in its row
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print(json.dumps(work(json.load(sys.stdin))))
