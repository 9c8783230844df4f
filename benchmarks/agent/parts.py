"""The parts of a run, by name."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.agent import tasks, threads
from benchmarks.agent.growth import growth
from benchmarks.agent.sides import Calling
from benchmarks.agent.threads import Measured, Work


@dataclass(frozen=True)
class Part:
    """Some rows, and who takes part in them.

    Attributes:
        measure: yields the rows of one side; takes a ``Work``, or an ``AsyncWork`` where the
            calling is ``tasks``.
        fill: builds, once a side and untimed, the stores that every repetition reads.
        unit: of its figures.
        once: whether it is measured in one repetition only, for being long.
    """

    name: str
    calling: Calling
    sides: tuple[str, ...]
    measure: Callable[[Any], Iterator[Measured] | AsyncIterator[Measured]]
    fill: Callable[[Work], None] | None = None
    unit: str = "us"
    once: bool = False


_PARTS = (
    Part("writes", "threads", ("walkv", "sqlite"), threads.writes),
    Part("crowds", "threads", ("walkv", "sqlite"), threads.crowds),
    Part("reads", "threads", ("walkv", "sqlite"), threads.reads, threads.fill_reads),
    Part("checkpoints", "threads", ("walkv", "sqlite"), threads.checkpoints),
    Part("disk", "threads", ("walkv", "sqlite"), threads.disk, unit="bytes"),
    Part("conversations", "tasks", ("walkv", "openai-agents"), tasks.conversations),
    Part("tool-calls", "tasks", ("walkv", "agentfs"), tasks.tool_calls),
    Part("values", "tasks", ("walkv", "agentfs"), tasks.values),
    Part("growth", "threads", ("walkv",), growth, once=True),
)
PARTS = {part.name: part for part in _PARTS}
