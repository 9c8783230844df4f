"""Which moment is meant, and whether the backups lead there."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final

from walkv.errors import BackupError, CorruptionError
from walkv.ops.backing import frames, listings
from walkv.ops.backing.listings import Listing, Piece, SegmentPart
from walkv.ops.backing.pacing import Pace
from walkv.ops.backing.plans import Moment, Plan, Planner
from walkv.ops.backing.reading import fetched
from walkv.ops.backing.retention import no_backups
from walkv.ops.backing.targets import Target

log = logging.getLogger("walkv")

_TOLD: Final = 3
"""So many stretches a message names."""


def find(
    place: Target, backup: str | None, sequence: int | None, time: datetime | None, pace: Pace
) -> Moment:
    """The moment that ``restore`` was asked for.

    Raises:
        FileNotFoundError, BackupError, CorruptionError, ValueError: as ``restore`` says.
    """
    time_ns = None if time is None else listings.nanoseconds(time)
    found = _listings(place, backup, sequence is None and time_ns is None, pace)
    planner = Planner(found)
    if sequence is None and time_ns is None:
        return _whole(found[0])
    if sequence is not None:
        plan = planner.to_sequence(sequence)
        if plan is not None:
            return Moment(plan, sequence, tuple(found))
        raise _unreachable(place, planner, f"sequence {sequence:,}")
    assert time_ns is not None
    moment = _Times(place, planner, pace).find(found, time_ns)
    if moment is None:
        raise _unreachable(place, planner, f"the store as it was at {time}")
    return moment


def _whole(listing: Listing) -> Moment:
    plan = Plan(listing, listing, listing.unsettled, (listing,))
    return Moment(plan, listing.sequence, (listing,))


def _listings(place: Target, backup: str | None, newest_only: bool, pace: Pace) -> list[Listing]:
    if backup is not None:
        try:
            return [listings.read(place, backup)]
        except FileNotFoundError:
            raise FileNotFoundError(2, "there is no backup of this name here", backup) from None
    names = listings.names(place)
    if not names:
        raise no_backups(place)
    if newest_only:
        return [listings.read(place, names[0])]
    found = []
    for name in names:
        pace.proceed()
        try:
            found.append(listings.read(place, name))
        except (CorruptionError, FileNotFoundError) as error:
            log.warning("walkv: %s: this backup is left out: %s", place.path, error)
    if not found:
        raise CorruptionError("no listing of a backup can be read", path=place.path)
    return found


def _unreachable(place: Target, planner: Planner, what: str) -> BackupError:
    sequences, times_ns = planner.stretches()
    times = tuple((listings.moment(a), listings.moment(b)) for a, b in times_ns)
    numbers = _told([f"{first:,} to {last:,}" for first, last in sequences])
    spans = _told([f"{first.isoformat()} to {last.isoformat()}" for first, last in times])
    hint = "; a store that keeps its log leaves no gaps" if len(sequences) > 1 else ""
    return BackupError(
        f"{place.path}: the backups do not lead to {what}; they lead to sequences {numbers}, or in "
        f"time {spans}{hint}",
        target=place.path,
        sequences=tuple(sequences),
        times=times,
    )


def _told(stretches: list[str]) -> str:
    """The newest stretches, as words."""
    newest = stretches[-_TOLD:]
    earlier = f"{len(stretches) - _TOLD} earlier ones, " if len(stretches) > _TOLD else ""
    return earlier + ", ".join(newest)


class _Times:
    """Finds the commits that are not later than a time."""

    def __init__(self, place: Target, planner: Planner, pace: Pace) -> None:
        self._place = place
        self._planner = planner
        self._pace = pace
        self._found: dict[str, tuple[int, int]] = {}

    def find(self, found: list[Listing], time_ns: int) -> Moment | None:
        """The moment of the history whose last commit before the time is the latest.

        A history tells of a time only if it was looked at later, or has a later commit.
        """
        best: tuple[int, str] | None = None
        best_moment = None
        unknown: list[Listing] = []
        for history in found:
            looked_at = history.time_ns // 1000 * 1000 + 999  # as exact as the time asked for
            if looked_at < time_ns:
                continue
            if history.segments[0].created_ns > time_ns:
                unknown.append(history)
                continue
            sequence, reached_ns = self._until(history, time_ns)
            plan = self._planner.reaching(history, sequence)
            rank = reached_ns, history.name
            if plan is None:
                unknown.append(history)
            elif best is None or rank > best:
                best, best_moment = rank, Moment(plan, sequence, tuple(found))
        if best_moment is not None:
            self._check_known(best_moment, unknown, time_ns)
        return best_moment

    def _check_known(self, moment: Moment, unknown: list[Listing], time_ns: int) -> None:
        """Refuse what may not have been the store at that time.

        A store that was restored goes on in a new segment. What it was restored over had perhaps
        gone on before the time, in segments that no backup has.
        """
        history = moment.plan.history
        following = next(
            (s for s in history.segments if s.last.next_sequence > moment.sequence + 1), None
        )
        if following is not None and following.created_ns <= time_ns:
            return
        known = {part.identity for part in self._planner.chain(history)}
        for other in unknown:
            ahead = other.name < history.name and other.settled_sequence > moment.sequence
            if ahead and other.unsettled[0].identity not in known:
                raise BackupError(
                    f"{self._place.path}: {history.name} is of a store that had been restored, and "
                    "what was there before it may have gone on until then: see "
                    f"{other.name}, whose log does not reach back so far; to restore the former, "
                    "name it",
                    target=self._place.path,
                )

    def _until(self, history: Listing, time_ns: int) -> tuple[int, int]:
        """Last sequence and time of the commits that precede the first one later than a time."""
        reached_ns = history.segments[0].created_ns
        for part in history.segments:
            next_sequence = part.first_sequence
            for piece in part.pieces:
                if piece.highest_time_ns > time_ns:
                    if piece.first_time_ns > time_ns:
                        return next_sequence - 1, reached_ns
                    sequence, inside_ns = self._inside(history, part, piece, next_sequence, time_ns)
                    return sequence, inside_ns or reached_ns
                if piece.commit_count:
                    reached_ns = piece.last_time_ns
                next_sequence = piece.next_sequence
        return history.sequence, reached_ns

    def _inside(
        self, history: Listing, part: SegmentPart, piece: Piece, next_sequence: int, time_ns: int
    ) -> tuple[int, int]:
        if piece.object not in self._found:
            with fetched(self._place, piece, self._pace) as file:
                header = part.header(history.store_id)
                self._found[piece.object] = frames.commits_until(
                    file, header, piece, next_sequence, time_ns
                )
        return self._found[piece.object]
