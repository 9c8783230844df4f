"""One measurement on every side, in turn, in one process."""

import gc
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How much is done."""

    seed: int = 1
    rounds: int = 5
    calls: int = 20
    message_bytes: int = 1024
    turns: int = 200
    last_turns: int = 50
    old_bytes: int = 350 * 1024
    growth_turns: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "walkv": (50, 100, 200, 500, 1000, 2000),
            "sqlite": (50, 100, 200, 500),
        }
    )
    conversations: int = 64
    conversation_messages: int = 20
    earlier_messages: int = 200
    copied_checkpoints: int = 1000
    copied_message_bytes: int = 400
    threads: int = 8
    thread_turns: int = 50


QUICK = Options(
    rounds=1,
    calls=2,
    turns=6,
    last_turns=3,
    old_bytes=10 * 1024,
    growth_turns={"walkv": (2, 4), "sqlite": (2,)},
    conversations=3,
    conversation_messages=3,
    earlier_messages=5,
    copied_checkpoints=10,
    threads=2,
    thread_turns=2,
)


@dataclass
class Row:
    """A sample a round, by side.

    Attributes:
        unit: `ms` or `s`, of which less is better, or `steps/s`.
    """

    name: str
    guarantee: str
    unit: str
    samples: dict[str, list[float]]

    def median(self, side: str) -> float | None:
        """The median of a side; None if it does not do this."""
        return statistics.median(self.samples[side]) if side in self.samples else None

    @property
    def factor(self) -> float:
        """How many times as good walkv is as SQLite; below 1 it is worse."""
        walkv, sqlite = (statistics.median(self.samples[side]) for side in ("walkv", "sqlite"))
        return walkv / sqlite if self.unit == "steps/s" else sqlite / walkv


def in_turn(
    sides: Sequence[str], rounds: int, sample: Callable[[str], float], *, warm_up: bool = False
) -> dict[str, list[float]]:
    """Take a sample of each side, so many times, in one order and in the other.

    Args:
        warm_up: take one of each before, which does not count.
    """
    samples: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(-1 if warm_up else 0, rounds):
        for side in sides if number % 2 else reversed(sides):
            # What one side has left for the collector or the disk is not for the next to pay.
            gc.collect()
            os.sync()
            figure = sample(side)
            if number >= 0:
                samples[side].append(figure)
    return samples
