"""Which backups lead to a moment: a base, and the segments that go on from it.

A *history* is the chain of segments in one listing. Another listing that has the chain's first
segment, and some before it, makes it longer. A *base* is a listing whose snapshots are not newer
than the moment wanted; the chain goes on from it if it has the first of the segments that the base
needs.

Invariants:
    1. Nothing is put together that was not one history. A store that was restored goes on in a new
       segment; so after that the same sequences exist twice, in segments that differ in their salt.
       A segment begins once, whatever becomes of it: so histories that have the same one, by first
       sequence and salt, are the same up to where it begins. From there on the chain's own is used.
    2. Nothing is left out: each segment continues the one before it.

Source: PostgreSQL numbers its timelines. Here the salts do that by themselves, and no number is to
be agreed on by those who restore.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from walkv.ops.backing.listings import Listing, SegmentPart

_FIRST_SEQUENCE: Final = 1
"""Where every store begins: what has the segment with this one needs no snapshots."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a moment is put together.

    Attributes:
        base: the listing whose snapshots are used; None for a store from its very beginning.
        history: the listing whose segments lead to the moment.
        segments: those from the base on, up to the end of the history.
        used: the listings that something is taken from, the newest first.
    """

    base: Listing | None
    history: Listing
    segments: tuple[SegmentPart, ...]
    used: tuple[Listing, ...]

    @property
    def settled_sequence(self) -> int:
        """The first moment that this leads to."""
        return 0 if self.base is None else self.base.settled_sequence

    @property
    def settled_ns(self) -> int:
        """When what is settled in the base was over: its log begins then."""
        return self.segments[0].created_ns


@dataclass(frozen=True, slots=True)
class Moment:
    """A sequence, the plan that leads there, and the listings that were looked at for it."""

    plan: Plan
    sequence: int
    found: tuple[Listing, ...]


class Planner:
    """Finds plans among the backups of a target.

    Args:
        found: the listings, newest first.
    """

    def __init__(self, found: list[Listing]) -> None:
        self._listings = found

    def plans(self, history: Listing) -> list[Plan]:
        """The ways to the moments of a history, the one with the newest base first."""
        chain, owners = self._chain(history)
        found = {history.settled_sequence: _plan(history, history, history.unsettled, ())}
        places = {part.identity: at for at, part in enumerate(chain)}
        for base in self._listings:
            at = places.get(base.unsettled[0].identity)
            if at is not None and base.settled_sequence not in found:
                found[base.settled_sequence] = _plan(base, history, chain[at:], owners[at:])
        if chain[0].first_sequence == _FIRST_SEQUENCE:
            found.setdefault(0, _plan(None, history, chain, owners))
        return sorted(found.values(), key=lambda plan: plan.settled_sequence, reverse=True)

    def _chain(self, history: Listing) -> tuple[tuple[SegmentPart, ...], tuple[Listing, ...]]:
        """The segments of a history from as early on as there are any, and whose each one is."""
        chain = history.segments
        owners = (history,) * len(chain)
        while True:
            longest: tuple[SegmentPart, ...] = ()
            owner = history
            for listing in self._listings:
                before = _before(listing, chain[0])
                if before and (not longest or before[0].first_sequence < longest[0].first_sequence):
                    longest, owner = before, listing
            if not longest:
                return chain, owners
            chain, owners = (*longest, *chain), ((owner,) * len(longest) + owners)

    def chain(self, history: Listing) -> tuple[SegmentPart, ...]:
        """The segments of a history from as early on as there are any."""
        return self._chain(history)[0]

    def to_sequence(self, sequence: int) -> Plan | None:
        """A plan for a sequence: in the newest history that has it."""
        for history in self._listings:
            if sequence <= history.sequence:
                plan = self.reaching(history, sequence)
                if plan is not None:
                    return plan
        return None

    def reaching(self, history: Listing, sequence: int) -> Plan | None:
        """A plan for a sequence of a history: with the newest base that is not newer than it."""
        for plan in self.plans(history):
            if plan.settled_sequence <= sequence:
                return plan
        return None

    def stretches(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The sequences and the times that can be reached: first and last of each stretch."""
        sequences, times = [], []
        for history in self._listings:
            earliest = self.plans(history)[-1]
            sequences.append((earliest.settled_sequence, history.sequence))
            times.append((earliest.settled_ns, history.time_ns))
        return _merged(sequences), _merged(times)


def _plan(
    base: Listing | None,
    history: Listing,
    segments: tuple[SegmentPart, ...],
    owners: tuple[Listing, ...],
) -> Plan:
    used = {each.name: each for each in (history, base or history, *owners)}
    newest_first = sorted(used, reverse=True)
    return Plan(base, history, segments, tuple(used[name] for name in newest_first))


def _before(listing: Listing, first: SegmentPart) -> tuple[SegmentPart, ...]:
    """The segments that a listing has before one that it shares."""
    for at, part in enumerate(listing.segments):
        if part.identity == first.identity:
            return listing.segments[:at]
    return ()


def _merged(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(stretches):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged
