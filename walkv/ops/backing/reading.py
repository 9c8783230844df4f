"""Reads objects of a target, and holds them against what a listing says of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from walkv.engine.vfs import File, OsFileSystem
from walkv.errors import CorruptionError
from walkv.ops.backing import listings
from walkv.ops.backing.listings import Hashed, Piece, SnapshotPart, size_of
from walkv.ops.backing.pacing import Pace
from walkv.ops.backing.targets import OBJECTS, Target


def read_object(place: Target, part: SnapshotPart | Piece) -> Iterator[bytes]:
    """The bytes of an object, which are not all to be used before this has ended without an error.

    Raises:
        CorruptionError: it is missing, or has another size or hash than the listing says.
    """
    path = f"{place.path}/{OBJECTS}/{part.object}"
    size_bytes = size_of(part)
    found = Hashed(listings.bounded(place.read(OBJECTS, part.object), size_bytes))
    try:
        yield from found
    except FileNotFoundError:
        raise missing(path) from None
    if (found.hash, found.size_bytes) != (part.hash, size_bytes):
        raise CorruptionError(
            "this object of the backup is damaged",
            path=path,
            expected=f"{size_bytes} bytes, {part.hash}",
            found=f"{found.size_bytes} bytes, {found.hash}",
        )


def is_whole(place: Target, part: SnapshotPart | Piece) -> bool:
    """Whether an object is what the listing says of it. Cost: reads it."""
    try:
        for _ in read_object(place, part):
            pass
    except CorruptionError:
        return False
    return True


def missing(path: str) -> CorruptionError:
    return CorruptionError(
        "a backup names this object, and it is missing",
        path=path,
        expected="an object",
        found="nothing",
    )


@contextmanager
def fetched(place: Target, part: SnapshotPart | Piece, pace: Pace) -> Iterator[File]:
    """An object as a file of its own for a while, checked against its hash."""
    with tempfile.TemporaryDirectory(prefix="walkv-") as folder:
        path = str(Path(folder) / part.object)
        fs = OsFileSystem()
        file: File = fs.create(path)
        try:
            offset = 0
            for chunk in read_object(place, part):
                file.write(chunk, offset)
                offset += len(chunk)
                pace.passed(len(chunk))
            yield file
        finally:
            file.close()
