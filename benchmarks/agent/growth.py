"""The cost of a page must be that of the page, whatever the size of the store."""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import walkv
from benchmarks.agent import data


def growth(directory: Path, sizes: list[int], calls: int) -> list[dict[str, Any]]:
    """Microseconds a call at each number of messages and executions: medians over `calls`."""
    found = []
    with tempfile.TemporaryDirectory(dir=directory) as place:
        path = Path(place) / "growth.walkv"
        rng = random.Random(1)
        messages = [data.message(rng) for _ in range(500)]
        executions = [data.execution(rng, number) for number in range(500)]
        count = 0
        with walkv.AgentStore(path, sync=walkv.WriteBack()) as agent:
            for size in sizes:
                while count < size:
                    step = min(500, size - count)
                    with agent.batch(sync=walkv.WriteBack()):
                        agent.messages.append_many("s", messages[:step])
                        for execution in executions[:step]:
                            agent.executions.log(**execution)
                    count += step
                query = agent.executions.query(role="writer").order_by("-started_at").limit(50)
                query = query.where(status="success")
                cursor = query.page().cursor
                found.append(
                    {
                        "records": size,
                        "history(limit=50)": _time(
                            lambda: agent.messages.history("s", limit=50), calls
                        ),
                        "history(limit=50, before=the middle)": _time(
                            lambda at=size // 2: agent.messages.history("s", limit=50, before=at),
                            calls,
                        ),
                        "list(limit=50)": _time(
                            lambda: agent.executions.list_by_role("writer", "success", 50), calls
                        ),
                        "page after a cursor": _time(
                            lambda q=query, c=cursor: q.after(c).page(), calls
                        ),
                    }
                )
    return found


def _time(call: Callable[[], Any], calls: int) -> float:
    samples = []
    for _ in range(calls):
        begin = time.perf_counter()
        call()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples) * 1e6
