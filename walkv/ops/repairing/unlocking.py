"""The keys of an encrypted store whose manifest cannot be read.

The data keys are wrapped in the manifest's ring and nowhere else, so without it nothing of the
store can be read, whoever has the user's key. It is looked for in what is left of the manifest, and
then in a copy of it: also an old one has the keys of what was written until it was made.

Invariant: a ring is believed only if its keys unwrap under the user's key for this very store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import msgpack
from xxhash import xxh3_64_digest

from walkv import limits
from walkv.engine import manifest
from walkv.engine.keyring import Keyring, Ring
from walkv.errors import CorruptionError, EncryptionError, FormatError, TamperedError
from walkv.ops.repairing.medium import Medium

_MENDED_BYTES: Final = 16 * limits.KIB
"""In a longer manifest no flipped bit is looked for: that takes the square of its length."""

_CHECKSUM: Final = slice(16, manifest.HEADER_BYTES)
_ARRAY_OF_THREE: Final = b"\x93"


def unlock(
    fs: Medium, directory: str, keyring: Keyring, store_id: bytes, copy: str | None, reason: str
) -> None:
    """Have a keyring take in the ring of an encrypted store.

    Args:
        store_id: by the headers of its files.
        copy: a file that is a manifest of this store.
        reason: what is wrong with the manifest that is there.
    Raises:
        EncryptionError: there are no keys any more, or the user's key does not fit them.
        CorruptionError, FormatError: the copy is no manifest that can be read.
    """
    path = fs.join(directory, manifest.NAME)
    failure: EncryptionError | TamperedError | None = None
    for ring in _left(fs, path):
        try:
            return keyring.unlock(ring, store_id, path)
        except TamperedError as error:
            failure = error
        except EncryptionError as error:
            if error.reason == "missing":
                raise
            failure = error
    if copy is not None:
        return keyring.unlock(_copied(fs, copy, store_id), store_id, copy)
    if failure is not None and not isinstance(failure, TamperedError):
        raise failure
    raise EncryptionError(
        f"{path}: this store is encrypted, and its manifest cannot be used ({reason}): the wrapped "
        "data keys were in it, and without them nothing of the store can be decrypted, not with "
        "its key either; give the MANIFEST of a backup, or of another copy of this store, to "
        "take them from",
        path=path,
        reason="lost",
    )


def _left(fs: Medium, path: str) -> Iterator[Ring]:
    """What looks like a ring in a damaged manifest."""
    try:
        data = fs.read_file(path, limits.MAX_MANIFEST_BYTES)
    except OSError:
        return
    for candidate in (data, *_with_a_bit_flipped(data)):
        try:
            ring = manifest.decode(candidate, path).ring
        except (CorruptionError, FormatError):
            continue
        if ring is not None:
            yield ring
    at = data.find(_ARRAY_OF_THREE)
    while at >= 0:
        unpacker = msgpack.Unpacker(raw=False, use_list=False)
        unpacker.feed(data[at:])
        with suppress(ValueError, TypeError, RecursionError, msgpack.UnpackException):
            yield Ring.of(unpacker.unpack())
        at = data.find(_ARRAY_OF_THREE, at + 1)


def _with_a_bit_flipped(data: bytes) -> Iterator[bytes]:
    """What has the right checksum and is another in one bit."""
    if not manifest.HEADER_BYTES < len(data) <= _MENDED_BYTES:
        return
    changed = bytearray(data)
    for bit in range(8 * len(data)):
        at, flip = bit >> 3, 1 << (bit & 7)
        changed[at] ^= flip
        body = changed[: _CHECKSUM.start] + changed[_CHECKSUM.stop :]
        if xxh3_64_digest(bytes(body)) == changed[_CHECKSUM]:
            yield bytes(changed)
        changed[at] ^= flip


def _copied(fs: Medium, path: str, store_id: bytes) -> Ring:
    known = manifest.decode(fs.read_file(path, limits.MAX_MANIFEST_BYTES), path)
    if known.ring is None or known.store_id != store_id:
        raise EncryptionError(
            f"{path}: this is the manifest of another store, and its keys open nothing here; give "
            "one of a backup, or of another copy, of the store that is to be repaired",
            path=path,
            reason="wrong",
        )
    return known.ring
