"""What one backup is: a small file that names the objects which together are the store.

Layout, JSON in ASCII:

    {"format": "walkv backup 1", "checksum": "<xxh3-128>", "listing": {...}}

The checksum is of the listing as JSON with sorted keys and no blanks. ``docs/backup.md`` lists the
fields.

Invariants:
    1. A backup exists if and only if its listing does. It is put last, once everything that it
       names is there and was read back.
    2. A segment is described as it was when the backup was made, as pieces that follow each other
       without gaps from byte 0 on; each ends with a whole frame, or with the segment's header.
    3. The segments of a listing continue each other, and the last one is the tail.
    4. ``mark`` is the checksum of the last frame of a piece, and ``mark_offset`` where it stands.
       Its seed binds it to segment and place, so a segment that has the same mark at the same place
       is the same up to there.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from xxhash import xxh3_128, xxh3_128_hexdigest

from walkv import limits
from walkv.engine.segment import STORE_ID_BYTES, SegmentHeader
from walkv.errors import CorruptionError, FormatError
from walkv.ops.backing.targets import BACKUPS, Target

FORMAT: Final = "walkv backup 1"
SUFFIX: Final = ".json"

_FAMILY: Final = "walkv backup "
_NAME_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
_LONGEST: Final = 256 * limits.MIB
_OBJECT: Final = re.compile(r"[0-9A-Za-z_~-]{1,255}")
_POOLED: Final = re.compile(
    r"(snapshot-\d{10,}-[0-9a-f]{16}-\d+|log-\d{20}-[0-9a-f]{16}-\d+-\d+-[0-9a-f]{16})(~[0-9a-f]{8})?"
)
_KINDS: Final[dict[str, type]] = {"int": int, "str": str, "bool": bool}


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """A snapshot file in the pool; ``key_number`` as in its header."""

    object: str
    snapshot_id: int
    size_bytes: int
    hash: str
    key_number: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a segment's bytes in the pool.

    Attributes:
        start, end: offsets in the segment.
        mark_offset, mark: see the module.
        next_sequence: of the first operation behind the piece.
        sealed: the last frame is the seal.
        commit_count: commits in the piece; the three times are 0 where there is none.
        first_time_ns, last_time_ns, highest_time_ns: times of commits.
    """

    object: str
    hash: str
    start: int
    end: int
    mark_offset: int
    mark: str
    next_sequence: int
    sealed: bool
    commit_count: int
    first_time_ns: int
    last_time_ns: int
    highest_time_ns: int


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """A segment of the log, up to where it reached; the first four are those of its header."""

    first_sequence: int
    salt: int
    created_ns: int
    key_number: int
    pieces: tuple[Piece, ...]

    def header(self, store_id: str) -> SegmentHeader:
        return SegmentHeader(
            bytes.fromhex(store_id),
            self.salt,
            self.first_sequence,
            self.created_ns,
            self.key_number,
        )

    @property
    def last(self) -> Piece:
        return self.pieces[-1]

    @property
    def identity(self) -> tuple[int, int]:
        """The same in every backup that has a part of this segment."""
        return (self.first_sequence, self.salt)


@dataclass(frozen=True, slots=True)
class Listing:
    """One backup.

    Attributes:
        name: sorts by when it was made.
        time_ns: when the source was looked at; wall clock.
        store_id: hex.
        source: the path of the store.
        settled_sequence: every sequence up to this one is in the snapshots.
        sequence: the last one in the backup.
        first_unsettled: first sequence of the first segment that the store needs; those before it
            are kept ones, for going back in time.
        manifest: the bytes of the file.
        keep: the bytes of ``log/KEEP``, or None.
    """

    name: str
    time_ns: int
    store_id: str
    source: str
    settled_sequence: int
    sequence: int
    first_unsettled: int
    manifest: bytes
    keep: bytes | None
    snapshots: tuple[SnapshotPart, ...]
    segments: tuple[SegmentPart, ...]

    @property
    def time(self) -> datetime:
        return moment(self.time_ns)

    @property
    def unsettled(self) -> tuple[SegmentPart, ...]:
        """The segments that the store needs."""
        return tuple(s for s in self.segments if s.first_sequence >= self.first_unsettled)

    def parts(self) -> Iterator[SnapshotPart | Piece]:
        """Everything it names in the pool."""
        yield from self.snapshots
        for each in self.segments:
            yield from each.pieces

    def objects(self) -> dict[str, int]:
        """Name and size of everything it names in the pool."""
        return {part.object: size_of(part) for part in self.parts()}


def size_of(part: SnapshotPart | Piece) -> int:
    return part.size_bytes if isinstance(part, SnapshotPart) else part.end - part.start


def moment(time_ns: int) -> datetime:
    """Nanoseconds since 1970 as a time in UTC, rounded down to microseconds."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)


def nanoseconds(time: datetime) -> int:
    """The last nanosecond of the microsecond that a time names.

    Raises:
        ValueError: it has no time zone.
    """
    if time.tzinfo is None:
        raise ValueError(
            f"a time needs a time zone, and {time} has none: use datetime.astimezone()"
        )
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000 + 999


def new_name(time_ns: int, newest: str | None, token: str) -> str:
    """A name that sorts behind the newest one, also where the clock was set back."""
    time = moment(time_ns)
    if newest is not None:
        time = max(time, named_time(newest) + timedelta(microseconds=1))
    return f"{time.strftime(_NAME_TIME)}-{token}"


def named_time(name: str) -> datetime:
    """The time in a backup's name.

    Raises:
        ValueError: it is no such name.
    """
    return datetime.strptime(name.rpartition("-")[0], _NAME_TIME).replace(tzinfo=UTC)


def encode(listing: Listing) -> bytes:
    fields = dataclasses.asdict(listing)
    for name in ("manifest", "keep"):
        if fields[name] is not None:
            fields[name] = base64.b64encode(fields[name]).decode("ascii")
    whole = {
        "format": FORMAT,
        "checksum": xxh3_128_hexdigest(_canonical(fields)),
        "listing": fields,
    }
    return json.dumps(whole, indent=1).encode("ascii")


def _canonical(fields: Any) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode("ascii")


def decode(data: bytes, path: str, name: str) -> Listing:
    """The listing of a backup.

    Raises:
        FormatError: of a newer format.
        CorruptionError: damaged, or another backup's.
    """
    try:
        whole = json.loads(data)
        if whole["format"] != FORMAT and str(whole["format"]).startswith(_FAMILY):
            raise FormatError(
                f"{path}: this is {whole['format']!r}, and this walkv reads {FORMAT!r}; use a "
                "newer walkv",
                path=path,
            )
        fields = whole["listing"]
        actual = xxh3_128_hexdigest(_canonical(fields))
        if actual != whole["checksum"] or fields["name"] != name:
            raise CorruptionError(
                "the checksum of this listing does not match",
                path=path,
                expected=f"{whole['checksum']} {name}",
                found=f"{actual} {fields['name']}",
            )
        fields["manifest"] = base64.b64decode(fields["manifest"])
        fields["keep"] = None if fields["keep"] is None else base64.b64decode(fields["keep"])
        fields["snapshots"] = tuple(SnapshotPart(**each) for each in fields["snapshots"])
        segments = []
        for each in fields["segments"]:
            pieces = tuple(Piece(**piece) for piece in each.pop("pieces"))
            segments.append(SegmentPart(**{"key_number": 0, **each}, pieces=pieces))
        listing = Listing(**{**fields, "segments": tuple(segments)})
        _check_fields(listing)
        return listing
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise CorruptionError(
            f"this listing does not decode: {type(error).__name__}: {error}", path=path
        ) from None


def _check_fields(listing: Listing) -> None:
    """See whether a listing is one of which all else may be asked.

    Raises:
        ValueError, TypeError, ArithmeticError: it is not.
    """
    for each in (listing, *listing.parts(), *listing.segments):
        for field in dataclasses.fields(each):
            value, kind = getattr(each, field.name), _KINDS.get(str(field.type))
            if kind is not None and type(value) is not kind:
                raise TypeError(f"{field.name} is of another type")
            if kind is int and not 0 <= value < 1 << 64:
                raise ValueError(f"{field.name} is out of bounds")
    if len(bytes.fromhex(listing.store_id)) != STORE_ID_BYTES:
        raise ValueError("the id of the store has another length")
    if not listing.unsettled or not all(part.pieces for part in listing.segments):
        raise ValueError("its parts do not make a store: there is no log")
    for time_ns in (listing.time_ns, *(part.created_ns for part in listing.segments)):
        moment(time_ns)
    for name in listing.objects():
        # It becomes a part of paths.
        if not _OBJECT.fullmatch(name):
            raise ValueError(f"an object cannot be called {name[:80]!r}")


def is_pooled(name: str) -> bool:
    """Whether a backup may have put an object of this name: nothing else is ever removed."""
    return _POOLED.fullmatch(name) is not None


def names(target: Target) -> list[str]:
    """Names of the backups in a target, newest first."""
    found = []
    for name in target.entries(BACKUPS):
        stem = name.removesuffix(SUFFIX)
        try:
            named_time(stem)
        except ValueError:
            continue
        if stem != name:
            found.append(stem)
    return sorted(found, reverse=True)


def read(target: Target, name: str, folder: str = BACKUPS) -> Listing:
    """The listing of a backup.

    Raises:
        FileNotFoundError: there is none of this name.
        FormatError, CorruptionError: see ``decode``.
    """
    data = b"".join(bounded(target.read(folder, name + SUFFIX), _LONGEST))
    return decode(data, path_of(target, name, folder), name)


def path_of(target: Target, name: str, folder: str = BACKUPS) -> str:
    """Where the listing of a backup is, for messages."""
    return f"{target.path}/{folder}/{name}{SUFFIX}"


def bounded(chunks: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    """The chunks, as long as they are no more than expected."""
    for chunk in chunks:
        most_bytes -= len(chunk)
        yield chunk
        if most_bytes < 0:
            return


class Hashed:
    """Chunks on their way, and what their hash and size came to."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._hash = xxh3_128()
        self.size_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            self.size_bytes += len(chunk)
            yield chunk

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()

    def drained(self) -> str:
        """The hash of all there is."""
        for _ in self:
            pass
        return self.hash
