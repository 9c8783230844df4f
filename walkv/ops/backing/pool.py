"""The objects of a target: put once, read back, and never put again.

The name of an object says what is in it without reading all of its source:

    snapshot-<id>-<salt>-<size>
    log-<first sequence>-<salt>-<start>-<end>-<mark>

Invariants:
    1. What a listing names was read back after it was put, and its hash was right.
    2. What no listing names may be left over from a backup that was killed. It is used only after
       it was read and has the hash of the source.
    3. Where there is no lock, an object that no listing names, and that is so old that somebody may
       be removing it, is not used; the same bytes get another name then.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from walkv.errors import CorruptionError
from walkv.ops.backing import listings
from walkv.ops.backing.listings import Hashed, Listing
from walkv.ops.backing.pacing import Pace
from walkv.ops.backing.targets import OBJECTS, Target

Chunks = Callable[[], Iterable[bytes]]

GRACE_SECONDS = 24 * 3600.0
"""So long what was removed stays in an object store, and so long a backup to one may take."""


class Pool:
    """The objects of a target while a backup is made.

    Attributes:
        copied_bytes, copied_count, skipped_bytes, skipped_count: what was put, and what was there.
    """

    def __init__(self, target: Target, newest: Listing | None, pace: Pace) -> None:
        self._target = target
        self._pace = pace
        self._entries = target.entries(OBJECTS)
        self._began = time.time()
        self._known: dict[str, tuple[str, str]] = {}
        self._newest = newest
        self._learned_all = False
        self._learn(newest)
        self.copied_bytes = self.copied_count = self.skipped_bytes = self.skipped_count = 0

    def _learn(self, listing: Listing | None) -> None:
        for part in () if listing is None else listing.parts():
            identity = part.object.partition("~")[0]
            self._known.setdefault(identity, (part.object, part.hash))

    def learn_all(self) -> Iterator[Listing]:
        """Every listing that can be read, newest first: for stores that went back in time."""
        for name in listings.names(self._target):
            with suppress(CorruptionError, FileNotFoundError):
                listing = listings.read(self._target, name)
                self._learn(listing)
                yield listing
        self._learned_all = True

    def has(self, identity: str, size_bytes: int) -> tuple[str, str] | None:
        """Name and hash of an object that a listing names, and that is there."""
        if identity not in self._known and identity in self._entries and not self._learned_all:
            for _ in self.learn_all():
                pass
        known = self._known.get(identity)
        if known is None or not self.is_there(known[0], size_bytes):
            return None
        return known

    def is_there(self, name: str, size_bytes: int) -> bool:
        """Whether an object of this name and size is in the target."""
        entry = self._entries.get(name)
        return entry is not None and entry.size_bytes == size_bytes

    def skip(self, size_bytes: int) -> None:
        """An object was there."""
        self.skipped_count += 1
        self.skipped_bytes += size_bytes

    def add(self, identity: str, size_bytes: int, chunks: Chunks) -> tuple[str, str]:
        """Put an object that is not there; returns its name and hash.

        It counts among what the pace expects. One that a listing names and that is missing gets
        its name back.

        Raises:
            CorruptionError: it does not read back as it was put.
            Whatever ``chunks`` raises.
        """
        known = self._known.get(identity)
        if known is not None and known[0] not in self._entries:
            return known[0], self._put(known[0], size_bytes, chunks)
        name = identity
        if identity in self._entries:
            if not self._is_ours(identity):
                name = f"{identity}~{secrets.token_hex(4)}"
            elif self.is_there(identity, size_bytes):
                found = Hashed(self._paced(chunks())).drained()
                if Hashed(self._paced(self._target.read(OBJECTS, identity))).drained() == found:
                    self._pace.expect(-size_bytes)
                    self.skip(size_bytes)
                    return identity, found
        return name, self._put(name, size_bytes, chunks)

    def put_again(self, name: str, digest: str, size_bytes: int, chunks: Chunks) -> None:
        """Put an object that listings name, with this hash, and that is missing.

        Raises:
            CorruptionError: it is another one, or does not read back as it was put.
            Whatever ``chunks`` raises.
        """
        found = self._put(name, size_bytes, chunks)
        if found != digest:
            self._target.remove(OBJECTS, [name])
            raise CorruptionError(
                "this object is not what it was",
                path=f"{self._target.path}/{OBJECTS}/{name}",
                expected=digest,
                found=found,
            )

    def _is_ours(self, name: str) -> bool:
        age_seconds = self._began - self._entries[name].modified
        return self._target.exclusive or age_seconds < GRACE_SECONDS / 2

    def _put(self, name: str, size_bytes: int, chunks: Chunks) -> str:
        given = Hashed(self._counted(chunks()))
        self._target.put(OBJECTS, name, given, size_bytes)
        found = Hashed(self._paced(self._target.read(OBJECTS, name)))
        if (found.drained(), found.size_bytes) != (given.hash, size_bytes):
            self._target.remove(OBJECTS, [name])
            raise CorruptionError(
                "this object does not read back as it was written",
                path=f"{self._target.path}/{OBJECTS}/{name}",
                expected=f"{size_bytes} bytes, {given.hash}",
                found=f"{found.size_bytes} bytes, {found.hash}",
            )
        self.copied_count += 1
        self.copied_bytes += size_bytes
        return given.hash

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._pace.done(len(chunk))
            yield chunk

    def _paced(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._pace.passed(len(chunk))
            yield chunk

    def check_complete(self, wanted: dict[str, int]) -> None:
        """Hold what a listing is to name against what is there now.

        Raises:
            CorruptionError: an object is missing: somebody else removed it.
        """
        entries = self._target.entries(OBJECTS)
        for name, size_bytes in wanted.items():
            if name not in entries or entries[name].size_bytes != size_bytes:
                found: Any = entries[name].size_bytes if name in entries else "no object"
                raise CorruptionError(
                    "this object was removed while the backup was made; make it again",
                    path=f"{self._target.path}/{OBJECTS}/{name}",
                    expected=f"{size_bytes} bytes",
                    found=found,
                )
