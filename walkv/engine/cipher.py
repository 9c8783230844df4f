"""Payload <-> sealed payload: what encrypts and authenticates the frames or pages of one file.

Layout of a sealed payload:

    offset  size  field
    ------  ----  ------------------------------------------------------------------
         0    12  nonce   random; never used twice with one key
        12     -  sealed  AES-256-GCM: as many bytes as the payload, then a tag of 16

    Authenticated with it, and not in it: the fields of the frame's or page's header behind the
    checksum, as they stand in the file, and the offset of the frame or page (u64, little-endian).

    The key is that of the file: HKDF-SHA256 of a data key, with "walkv file" and the 64 bytes of
    the file's header as info.

Invariants:
    1. Checksums are of what stands in the file, so whether a frame or page is whole is known
       without a key; only what is whole is opened.
    2. A sealed payload opens in one place of one file of one store, under one header, and nowhere
       else.
    3. A nonce is taken out of the supply before it is used, and drawn anew for whatever is written
       again in the same place.
    4. Under one key come far fewer than 2^32 payloads, up to which random nonces of 12 bytes do not
       meet: a segment ends when a memtable is half full, and a snapshot has pages of 8 KiB.
    5. Keys are in no message and in no ``repr``.

Source: the log and table files of RocksDB's ``EncryptedEnv`` are enciphered without a tag, so that
what is changed there decrypts to something else; SQLCipher's pages carry one. Counting nonces was
rejected: an opener that is killed, or a copy of the directory that is written to, would count from
the same number again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from walkv import limits
from walkv.errors import EncryptionError, TamperedError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEAL_BYTES: Final = NONCE_BYTES + TAG_BYTES
"""So much longer is a sealed payload."""

_OFFSET_BYTES: Final = 8
_FILE: Final = b"walkv file"
_SUPPLY: Final = 256
_LARGEST: Final = (1 << 31) - 1
"""Most bytes that the library seals or opens in one call."""

_LARGEST_BATCH: Final = limits.MAX_BATCH_BYTES + 16 * limits.MAX_BATCH_OPERATIONS

assert _LARGEST_BATCH + SEAL_BYTES <= limits.MAX_PAYLOAD_BYTES, "its frame is valid"
assert _LARGEST_BATCH + SEAL_BYTES <= _LARGEST
assert limits.MAX_BLOCK_BYTES + SEAL_BYTES <= _LARGEST


class Sealer:
    """Seals and opens the payloads of one file.

    Opening is thread-safe. Sealing is for one thread at a time: whoever appends to the file.
    """

    __slots__ = ("_decrypt", "_encrypt", "_errors", "_path", "_random_bytes", "_supply")

    def __init__(
        self, data_key: bytes, header: bytes, path: str, random_bytes: Callable[[int], bytes]
    ) -> None:
        """For the file that begins with ``header``."""
        library = _library()
        cipher = library.AESGCM(derived(data_key, _FILE + header))
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._errors = (library.InvalidTag, ValueError, OverflowError)
        self._path = path
        self._random_bytes = random_bytes
        self._supply: list[bytes] = []

    # Hot: every commit to an encrypted store.
    def seal(self, payload: bytes | memoryview, head: bytes, offset: int) -> bytes:
        """A payload, sealed for the frame or page with these header fields at ``offset``.

        Cost: one pass over the payload; a microsecond where it is small.
        """
        try:
            nonce = self._supply.pop()
        except IndexError:
            nonce = self._draw()
        place = head + offset.to_bytes(_OFFSET_BYTES, "little")
        return nonce + self._encrypt(nonce, payload, place)  # type: ignore[no-any-return]  # bytes

    def _draw(self) -> bytes:
        drawn = self._random_bytes(_SUPPLY * NONCE_BYTES)
        supply = [drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES)]
        nonce = supply.pop()
        self._supply = supply
        return nonce

    # Hot: every frame of a replay and every page read, of an encrypted store.
    def open(self, sealed: bytes | memoryview, head: bytes, offset: int) -> bytes:
        """The payload that was sealed for these header fields and this offset.

        Raises:
            TamperedError: this is not what was sealed there.
        """
        try:
            payload: bytes = self._decrypt(
                sealed[:NONCE_BYTES],
                sealed[NONCE_BYTES:],
                head + offset.to_bytes(_OFFSET_BYTES, "little"),
            )
        except self._errors:
            raise TamperedError(
                "the checksum is right, and this is not what was sealed in this place with the "
                "store's key",
                path=self._path,
                offset_bytes=offset,
            ) from None
        return payload


def derived(key: bytes, info: bytes) -> bytes:
    """Another key of 32 bytes, for the purpose that ``info`` names."""
    library = _library()
    expand = library.HKDF(algorithm=library.SHA256(), length=KEY_BYTES, salt=None, info=info)
    return bytes(expand.derive(key))


def stretched(passphrase: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    """A key of 32 bytes from a passphrase. Cost: 128 n r bytes of memory, and a while."""
    return bytes(_library().Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(passphrase))


def wrapped(key: bytes, secret: bytes, purpose: bytes, nonce: bytes) -> bytes:
    """``secret``, sealed under ``key`` for a purpose."""
    return nonce + bytes(_library().AESGCM(key).encrypt(nonce, secret, purpose))


def unwrapped(key: bytes, sealed: bytes, purpose: bytes) -> bytes | None:
    """What was sealed under ``key`` for a purpose; None if this was not."""
    library = _library()
    try:
        return bytes(
            library.AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], purpose)
        )
    except (library.InvalidTag, ValueError):
        return None


class _Library:
    """The parts of the ``cryptography`` package that are used, imported once they are."""

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        self.InvalidTag: type[Exception] = InvalidTag
        self.AESGCM: Any = AESGCM
        self.SHA256: Any = SHA256
        self.HKDF: Any = HKDF
        self.Scrypt: Any = Scrypt


_loaded: list[_Library] = []


def _library() -> _Library:
    if not _loaded:
        try:
            _loaded.append(_Library())
        except ImportError as error:
            raise EncryptionError(
                "encryption at rest needs the cryptography package; install it with: "
                'pip install "walkv[encryption]"',
                reason="not-installed",
            ) from error
    return _loaded[0]
