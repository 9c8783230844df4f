"""The cost of a page must be that of the page, whatever the size of the store."""

from collections.abc import Iterator

import walkv
from benchmarks.agent import data
from benchmarks.agent.threads import Measured, Work
from benchmarks.agent.timing import time_calls
from benchmarks.collector import freeze
from walkv.records import Execution

_POOL = 500


def growth(work: Work) -> Iterator[Measured]:
    """Pages of messages and of executions, at growing numbers of both in one store of walkv."""
    calls, rng = work.options.calls, work.rng()
    messages = [data.message(rng) for _ in range(_POOL)]
    executions = [data.execution(rng, number) for number in range(_POOL)]
    freeze()
    with walkv.AgentStore(work.directory / "growth.walkv", sync=walkv.WriteBack()) as agent:
        count = 0
        for size in work.options.growth_records:
            while count < size:
                step = min(_POOL, size - count)
                with agent.batch(sync=walkv.WriteBack()):
                    agent.messages.append_many("s", messages[:step])
                    for execution in executions[:step]:
                        agent.executions.log(**execution)
                count += step
            query = agent.executions.query(role="writer", status="success")
            query = query.order_by("-started_at").limit(50)
            after = query.after(query.page().cursor)

            def newest(_: int) -> None:
                agent.messages.history("s", limit=50)

            def middle(_: int, before: int = size // 2) -> None:
                agent.messages.history("s", limit=50, before=before)

            def listed(_: int) -> None:
                agent.executions.list_by_role("writer", "success", 50)

            def following(_: int, page: walkv.Query[Execution] = after) -> None:
                page.page()

            for name, call in (
                ("last 50 messages", newest),
                ("50 messages before the middle", middle),
                ("list 50 executions by (role, status)", listed),
                ("50 executions after a cursor", following),
            ):
                yield f"{name}, {size:,} of each in the store", "read", time_calls(call, calls)
