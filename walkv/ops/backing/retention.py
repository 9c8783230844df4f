"""Which backups stay, and how the others go.

Invariants:
    1. The newest backup always stays.
    2. A listing goes first, durably, and then what no other one names. So what is listed can be
       restored, whenever a process was killed.
    3. In an object store, which has no locks, a listing is moved to ``removed/``, where it protects
       what it names for ``GRACE_SECONDS``; and what no listing names stays as long. So a backup
       that is being made finds everything that it found when it began.
    4. Where a listing that is to stay is damaged, nothing goes: nobody knows which objects it
       names, nor can anything be restored from it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from walkv.engine.inspect import Progress
from walkv.errors import CorruptionError
from walkv.ops.backing import listings
from walkv.ops.backing.pacing import Pace
from walkv.ops.backing.places import open_target
from walkv.ops.backing.pool import GRACE_SECONDS
from walkv.ops.backing.targets import BACKUPS, OBJECTS, REMOVED, Target


@dataclass(frozen=True, slots=True)
class Retention:
    """Which backups stay: the newest ``keep``, and those of the last ``keep_days`` days."""

    keep: int | None
    keep_days: float | None

    @classmethod
    def checked(cls, keep: int | None, keep_days: float | None) -> Retention:
        """
        Raises:
            ValueError: they are not what they should be.
        """
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
            raise ValueError(f"keep is a number of backups, 1 or more, not {keep!r}")
        if keep_days is not None and not 0 < keep_days < 1e6:
            raise ValueError(f"keep_days is a number of days above 0, not {keep_days!r}")
        return cls(keep, keep_days)

    def superfluous(self, names: list[str], now: datetime) -> list[str]:
        """Those of the names, newest first, that need not stay."""
        if self.keep is None and self.keep_days is None:
            return []
        stay = set(names[: self.keep or 1])
        if self.keep_days is not None:
            longest = timedelta(days=self.keep_days)
            stay |= {name for name in names if now - listings.named_time(name) <= longest}
        return [name for name in names if name not in stay]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was removed.

    Attributes:
        removed: names of backups.
        removed_objects, removed_bytes: what they alone had named, or nobody. In an object store
            that goes ``GRACE_SECONDS`` later, with the next prune or backup.
    """

    removed: tuple[str, ...]
    removed_objects: int
    removed_bytes: int


def prune_backups(
    target: str | os.PathLike[str],
    *,
    keep: int | None = None,
    keep_days: float | None = None,
    progress: Progress | None = None,
) -> PruneReport:
    """Remove old backups, and what is left over from backups that were killed.

    Args:
        keep, keep_days: all go but the newest ``keep`` and those of the last ``keep_days`` days.
            The newest one always stays. Without either, only what is left over goes.
    Raises:
        FileNotFoundError: there are no backups.
        CorruptionError: a listing is damaged, so no objects were removed.
        BackupError, OSError: something could not be removed.
    Durability: what was removed stays so.
    """
    retention = Retention.checked(keep, keep_days)
    place = open_target(target)
    pace = Pace(progress)
    if not listings.names(place):
        raise no_backups(place)
    with place.lock(pace):
        return remove(place, retention, pace)


def no_backups(place: Target) -> FileNotFoundError:
    return FileNotFoundError(2, "there are no backups here", place.path)


def remove(place: Target, retention: Retention, pace: Pace) -> PruneReport:
    """As ``prune_backups``, for who has the lock."""
    names = listings.names(place)
    doomed = retention.superfluous(names, datetime.now(UTC))
    for name in names if doomed else ():
        # One that cannot be read must not stay in the place of one that can.
        pace.proceed()
        if name not in doomed:
            _objects(place, BACKUPS, name)
    if not place.exclusive:
        for name in doomed:
            pace.proceed()
            file_name = name + listings.SUFFIX
            data = b"".join(place.read(BACKUPS, file_name))
            place.put(REMOVED, file_name, [data], len(data))
    place.remove(BACKUPS, [name + listings.SUFFIX for name in doomed])
    # What is there is listed before it is read who needs it: nothing newer is ever removed.
    entries = place.entries(OBJECTS)
    long_ago = time.time() - (0.0 if place.exclusive else GRACE_SECONDS)
    needed: set[str] = set()
    for folder, name in _protecting(place, long_ago):
        pace.proceed()
        needed |= _objects(place, folder, name)
    unused = [
        name
        for name, entry in entries.items()
        if listings.is_pooled(name)
        and name not in needed
        and (place.exclusive or entry.modified < long_ago)
    ]
    place.remove(OBJECTS, unused)
    return PruneReport(tuple(doomed), len(unused), sum(entries[n].size_bytes for n in unused))


def _objects(place: Target, folder: str, name: str) -> set[str]:
    """What a listing names; nothing if it was removed just now."""
    try:
        return set(listings.read(place, name, folder).objects())
    except FileNotFoundError:
        return set()
    except CorruptionError as error:
        raise CorruptionError(
            f"{error.reason}; nothing that backups name was removed", path=error.path
        ) from error


def _protecting(place: Target, long_ago: float) -> list[tuple[str, str]]:
    """Folders and names of the listings whose objects stay."""
    found = [(BACKUPS, name) for name in listings.names(place)]
    if not place.exclusive:
        removed = {n: e for n, e in place.entries(REMOVED).items() if n.endswith(listings.SUFFIX)}
        old = [name for name, entry in removed.items() if entry.modified < long_ago]
        place.remove(REMOVED, old)
        found += [
            (REMOVED, name.removesuffix(listings.SUFFIX)) for name in removed.keys() - set(old)
        ]
    return found
