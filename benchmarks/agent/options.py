"""How much is done."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The sizes of a run. All of them are reported with its results.

    Attributes:
        calls: timed calls of a row in each process, after as many that warm it up.
        messages: in the store whose newest messages are read; `conversation` of them a session.
        executions: in the store whose executions are listed.
        tool_calls: as many, where every one of them is a commit of its own.
        tasks: that append at once.
        growth_records: at each of these sizes of a store, the cost of a page is measured.
    """

    seed: int = 1
    repetitions: int = 5
    calls: int = 400
    messages: int = 1_000_000
    conversation: int = 10_000
    executions: int = 100_000
    tool_calls: int = 2_000
    tasks: int = 64
    checkpoint_steps: int = 600
    checkpoint_bytes: int = 400_000
    growth_records: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)


QUICK = Options(
    repetitions=1,
    calls=5,
    messages=2_000,
    conversation=500,
    executions=500,
    tool_calls=60,
    tasks=8,
    checkpoint_steps=20,
    checkpoint_bytes=20_000,
    growth_records=(500, 1_000),
)
