"""Who goes on: strategies for a schedule.

Source: a random walk as in shuttle; PCT ("A Randomized Scheduler with Probabilistic Guarantees of
Finding Bugs", ASPLOS'10); bounded preemption (CHESS, OSDI'08).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol


class Strategy(Protocol):
    """Says who goes on. ``begin`` is called once, with the seed's randomness."""

    def begin(self, chooser: Random) -> None: ...

    def pick(self, choice: int, ready: Sequence[int], default: int) -> int:
        """One of ``ready``, the numbers of the threads that can go on.

        Args:
            choice: the number of this choice; only what has an alternative is a choice.
            default: the thread that has the baton, if it can go on; else the next one in turn.
        """


class RandomWalk:
    """Anybody, each time; or with ``share`` below 1 whoever runs goes on, most of the time."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def begin(self, chooser: Random) -> None:
        self._chooser = chooser

    def pick(self, choice: int, ready: Sequence[int], default: int) -> int:
        if self.share < 1 and self._chooser.random() >= self.share:
            return default
        return self._chooser.choice(ready)


class Priorities:
    """PCT: the first in a random order goes on; ``changes`` times it becomes the last.

    Args:
        length: about how many choices there will be; the changes are spread over them.
    """

    def __init__(self, changes: int = 2, length: int = 300) -> None:
        self.changes = changes
        self.length = length

    def begin(self, chooser: Random) -> None:
        self._chooser = chooser
        self._ranks: dict[int, float] = {}
        self._at = {chooser.randrange(self.length) for _ in range(self.changes)}

    def pick(self, choice: int, ready: Sequence[int], default: int) -> int:
        for number in ready:
            if number not in self._ranks:
                self._ranks[number] = self._chooser.random()
        first = min(ready, key=self._ranks.__getitem__)
        if choice in self._at:
            self._ranks[first] = 1.0 + choice
            first = min(ready, key=self._ranks.__getitem__)
        return first


class Preemptions:
    """Whoever runs goes on until it waits, but for ``count`` moments."""

    def __init__(self, count: int = 3, length: int = 300) -> None:
        self.count = count
        self.length = length

    def begin(self, chooser: Random) -> None:
        self._chooser = chooser
        self._at = {chooser.randrange(self.length) for _ in range(self.count)}

    def pick(self, choice: int, ready: Sequence[int], default: int) -> int:
        if choice not in self._at:
            return default
        return self._chooser.choice([number for number in ready if number != default])


class Only:
    """The default but for these choices: repeats, or shortens, a run by its ``deviations``."""

    def __init__(self, deviations: Mapping[int, int]) -> None:
        self.deviations = dict(deviations)

    def begin(self, chooser: Random) -> None:
        pass

    def pick(self, choice: int, ready: Sequence[int], default: int) -> int:
        number = self.deviations.get(choice, default)
        return number if number in ready else default
