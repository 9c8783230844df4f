"""The first 64 bytes of a segment or a snapshot, read as far as they can be.

Everything in a file is checked with the salt that its header states, so a lost salt is a lost file.
A damaged header is mended where that can be proved:

    - one flipped bit: the one that makes the header's checksum right again;
    - anything but the salt: the salt as it stands makes something in the file valid;
    - one damaged byte of the salt: the one of 2,040 others that does.

Invariant: a header is believed only if its checksum is right, or if its salt has made the checksum
of something else in the file right, which no wrong one does by chance.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from walkv.engine.segment import HEADER_BYTES
from walkv.errors import FormatError

_FIELDS: Final = struct.Struct("<8sII16sQQQ")
_SALT: Final = slice(32, 40)
_SUPPORTED: Final = (1, 0)

assert _FIELDS.size + 8 == HEADER_BYTES


class Header(NamedTuple):
    """A header of either kind of file.

    Attributes:
        store_id: None where the header was too damaged to tell.
        number: a segment's first sequence, a snapshot's id.
        created_ns: 0 where it is not known.
        mended: it was damaged.
    """

    store_id: bytes | None
    salt: int
    number: int
    created_ns: int
    mended: bool


def read(
    data: bytes, magic: bytes, path: str, named: int, proves: Callable[[int], bool]
) -> Header | None:
    """The header in the first 64 bytes of a file, or None if it cannot be told.

    Args:
        named: the number in the file's name.
        proves: whether a salt makes something in the file valid.
    Raises:
        FormatError: an undamaged header of a format that this version does not read.
    """
    if len(data) < HEADER_BYTES:
        return None
    for number, body in enumerate(_candidates(data)):
        if xxh3_64_digest(body[: _FIELDS.size]) == body[_FIELDS.size :] and body[:8] == magic:
            _, version, features, store_id, salt, stated, created_ns = _FIELDS.unpack_from(body)
            if (version, features) != _SUPPORTED:
                raise FormatError(
                    f"{path}: format {version}, features {features:#x}, and this walkv reads "
                    f"format {_SUPPORTED[0]}; repair it with a newer walkv",
                    path=path,
                    found_version=version,
                    supported=_SUPPORTED[:1],
                )
            return Header(store_id, salt, stated, created_ns, number > 0)
    for salt in _salts(data[_SALT]):
        if proves(salt):
            return Header(None, salt, named, 0, True)
    return None


def _candidates(data: bytes) -> Iterator[bytes]:
    """The header as it is, then with each of its bits flipped."""
    data = data[:HEADER_BYTES]
    yield data
    whole = int.from_bytes(data, "little")
    for bit in range(8 * HEADER_BYTES):
        yield (whole ^ 1 << bit).to_bytes(HEADER_BYTES, "little")


def _salts(data: bytes) -> Iterator[int]:
    """The salt as it is, then with each of its bytes replaced by every other."""
    yield int.from_bytes(data, "little")
    for at in range(len(data)):
        for byte in range(256):
            if byte != data[at]:
                yield int.from_bytes(data[:at] + bytes((byte,)) + data[at + 1 :], "little")
