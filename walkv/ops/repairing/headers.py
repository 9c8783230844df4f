"""The first 64 bytes of a segment or a snapshot, read as far as they can be.

Everything in a file is checked with the salt that its header states, so a lost salt is a lost file.
A damaged header is mended where that can be proved:

    - one flipped bit: the one that makes the header's checksum right again;
    - anything but the salt: the salt as it stands makes something in the file valid;
    - one damaged byte of the salt: the one of 2,040 others that does.

In an encrypted store the key of a file is derived from all of its header. What is damaged besides
the salt is put back from what is known of the store. Only the time is not known, so that no more
than one byte of it may be damaged.

Invariants:
    1. A header is believed only if its checksum is right, or if its salt has made the checksum of
       something else in the file right, which no wrong one does by chance.
    2. One that was put together for an encrypted file is believed only if its checksum is the one
       that is there, or if what was sealed in the file opens under it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest

from walkv.engine.segment import ENCRYPTED, FORMAT_VERSION, HEADER_BYTES
from walkv.errors import FormatError

_FIELDS: Final = struct.Struct("<8sIHH16sQQQ")
_SALT: Final = slice(32, 40)
_CREATED: Final = slice(48, 56)

assert _FIELDS.size + 8 == HEADER_BYTES


class Header(NamedTuple):
    """A header of either kind of file.

    Attributes:
        store_id: None where the header was too damaged to tell.
        number: a segment's first sequence, a snapshot's id.
        created_ns: as it stands there, where that cannot be checked.
        mended: it was damaged.
        key_number: of the data key that the file is under; 0 where it is not encrypted, or where
            the header was too damaged to tell.
        data: the bytes that were written, as far as they are known.
    """

    store_id: bytes | None
    salt: int
    number: int
    created_ns: int
    mended: bool
    key_number: int
    data: bytes

    def encode(self) -> bytes:
        return self.data


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
            fields = _FIELDS.unpack_from(body)
            _, version, features, key_number, store_id, salt, stated, created_ns = fields
            if version != FORMAT_VERSION or features != (ENCRYPTED if key_number else 0):
                raise FormatError(
                    f"{path}: format {version}, features {features:#x}, and this walkv reads "
                    f"format {FORMAT_VERSION}; repair it with a newer walkv",
                    path=path,
                    found_version=version,
                    supported=(FORMAT_VERSION,),
                )
            return Header(store_id, salt, stated, created_ns, number > 0, key_number, body)
    created_ns = int.from_bytes(data[_CREATED], "little")
    for salt in _numbers(data[_SALT]):
        if proves(salt):
            return Header(None, salt, named, created_ns, True, 0, data[:HEADER_BYTES])
    return None


def sealed(
    found: Header,
    magic: bytes,
    store_id: bytes,
    key_numbers: Iterable[int],
    opens: Callable[[Header], bool],
) -> Header | None:
    """The header that an encrypted file was written with, of one of which the salt could be told;
    None if it cannot be told.

    Args:
        key_numbers: of the data keys of the store.
        opens: whether something in the file opens under a header.
    """
    if found.store_id is not None:
        return found
    for created_ns in _numbers(found.data[_CREATED]):
        for number in key_numbers:
            fields = (magic, FORMAT_VERSION, ENCRYPTED, number, store_id, found.salt, found.number)
            body = _FIELDS.pack(*fields, created_ns)
            data = body + xxh3_64_digest(body)
            made = Header(store_id, found.salt, found.number, created_ns, True, number, data)
            as_it_is = created_ns == found.created_ns
            if data[_FIELDS.size :] == found.data[_FIELDS.size :] or (as_it_is and opens(made)):
                return made
    return None


def _candidates(data: bytes) -> Iterator[bytes]:
    """The header as it is, then with each of its bits flipped."""
    data = data[:HEADER_BYTES]
    yield data
    whole = int.from_bytes(data, "little")
    for bit in range(8 * HEADER_BYTES):
        yield (whole ^ 1 << bit).to_bytes(HEADER_BYTES, "little")


def _numbers(data: bytes) -> Iterator[int]:
    """A number as it is, then with each of its bytes replaced by every other."""
    yield int.from_bytes(data, "little")
    for at in range(len(data)):
        for byte in range(256):
            if byte != data[at]:
                yield int.from_bytes(data[:at] + bytes((byte,)) + data[at + 1 :], "little")
