"""Runs one job in a process of its own: a JSON job on its stdin, a JSON result on its stdout."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.machine import REPOSITORY

ERROR_CHARACTERS = 300


def run_job(
    module: str,
    job: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    timeout_seconds: float | None = None,
) -> dict[str, Any]:
    """The result of ``python -m module``, or ``{"error": text}`` if it gave none.

    Args:
        environment: added to that of this process.
    """
    search_path = filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])
    with subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path), **environment},
        # A group of its own, so that whatever the job starts can be ended with it.
        start_new_session=True,
    ) as process:
        try:
            output, complaints = process.communicate(json.dumps(job), timeout_seconds)
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {timeout_seconds:.0f} s"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    lines = output.splitlines()
    if process.returncode != 0 or not lines:
        complaint = complaints[-ERROR_CHARACTERS:].strip()
        return {"error": f"exit status {process.returncode}: {complaint}"}
    result: dict[str, Any] = json.loads(lines[-1])
    return result
