"""The keys of an encrypted store: what the user gives, what is kept of it, what files are under.

    key or passphrase  ->  key-encryption key  ->  data keys, numbered  ->  a key for each file

The first is never on disk. Data keys are random, and wrapped under the second they are in the
*ring*, a part of the manifest. So the user's key can be changed without writing a file anew.

Layout of the ring (a msgpack array):

    ring  [kdf, check, keys]
      kdf    [] for a key of 32 bytes; [salt, n, r, p] of scrypt for a passphrase
      check  bin of 16 bytes that only the right key gives
      keys   [number, wrapped data key] each, ascending; the last is used for new files

    key-encryption key  HKDF of the user's key (or of what scrypt makes of the passphrase), with
                        "walkv key" and the store id as info
    check               the first 16 bytes of the same HKDF, with "walkv check" instead
    wrapped             nonce of 12 bytes, then AES-256-GCM of the data key under the key-encryption
                        key; authenticated with "walkv data key", store id, number (u16), and the
                        number of the newest one (u16): who has an older data key cannot take the
                        newer ones out of the ring
    tag of a manifest   HMAC-SHA256 under HKDF of the last data key, with "walkv manifest" and the
                        store id as info

Invariants:
    1. A data key's number is never used for another key of the same store.
    2. A file is begun under a data key only once a durable manifest has it in its ring.
    3. Only data keys of the ring that was read last open files.
    4. In an encrypted store nothing that is not encrypted is taken for a part of it, nor the
       reverse.

Source: envelope encryption, as key management services describe it. One key for everything was
rejected: to change it would mean to write everything anew before the old one could be withdrawn.
"""

from __future__ import annotations

import binascii
import hmac
import unicodedata
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from walkv.engine import cipher
from walkv.engine.cipher import KEY_BYTES, NONCE_BYTES, Sealer
from walkv.errors import EncryptionError, LimitError, TamperedError

PREFIX: Final = "walkv-key-1:"
"""Before a key that is written as text."""

VARIABLE: Final = "WALKV_KEY"
"""The variable of the environment that is used where no key is given."""

CHECK_BYTES: Final = 16
TAG_BYTES: Final = 32
SALT_BYTES: Final = 16
MAX_KEY_NUMBER: Final = (1 << 16) - 1

_SCRYPT: Final = (1 << 16, 8, 2)
_MOST: Final = (1 << 20, 32, 64)
"""A forged ring must not have us spend hours, or all memory, on a passphrase."""

NO_KDF: Final[tuple[Any, ...]] = ()


class FileHeader(Protocol):
    """What is needed of the header of a segment or snapshot."""

    @property
    def key_number(self) -> int: ...

    def encode(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Ring:
    """What a manifest keeps of the keys; see the layout."""

    kdf: tuple[Any, ...]
    check: bytes
    keys: tuple[tuple[int, bytes], ...]

    @property
    def newest(self) -> int:
        """The number of the data key for new files."""
        return self.keys[-1][0]

    @classmethod
    def of(cls, fields: Any) -> Ring:
        """A ring as it was decoded; ``ValueError`` where it is none."""
        kdf, check, keys = fields
        if kdf != NO_KDF:
            salt, *numbers = kdf
            if type(salt) is not bytes or set(map(type, numbers)) != {int} or len(numbers) != 3:
                raise ValueError("the key derivation is not scrypt")
            n, r, p = numbers
            within = all(1 <= each <= most for each, most in zip(numbers, _MOST, strict=True))
            memory_bytes = 128 * n * r
            within = within and memory_bytes <= 1 << 30 and memory_bytes * p <= 1 << 32
            if not within or n < 2 or n & (n - 1):
                raise ValueError("the parameters of scrypt are out of bounds")
        wrapped_bytes = NONCE_BYTES + KEY_BYTES + cipher.TAG_BYTES
        if type(check) is not bytes or len(check) != CHECK_BYTES or not keys:
            raise ValueError("the ring is cut short")
        numbers = [number for number, _ in keys]
        if set(map(type, numbers)) != {int} or numbers != sorted(set(numbers)):
            raise ValueError("the numbers of data keys do not ascend")
        if not 1 <= numbers[0] <= numbers[-1] <= MAX_KEY_NUMBER:
            raise ValueError("the number of a data key is out of bounds")
        if any(type(each) is not bytes or len(each) != wrapped_bytes for _, each in keys):
            raise ValueError("a wrapped data key has another length")
        return cls(kdf, check, tuple((number, each) for number, each in keys))


class Secret:
    """A key or passphrase that a user gave.

    Attributes:
        ambient: it came from the environment, and is not meant for this store in particular.
    """

    __slots__ = ("_derived", "_passphrase", "_raw", "ambient")

    def __init__(
        self, key: bytes | str | Callable[[], bytes | str], *, ambient: bool = False
    ) -> None:
        """Raises ``EncryptionError`` for what cannot be a key, ``TypeError`` for another type."""
        if not isinstance(key, (bytes, bytearray, str)):
            if not callable(key):
                raise TypeError(f"a key is bytes, str, or what returns one, not {_kind(key)}")
            key = key()
        self.ambient = ambient
        self._raw = self._passphrase = b""
        self._derived: tuple[Any, bytes, bytes] | None = None
        if isinstance(key, (bytes, bytearray)):
            self._raw = bytes(key)
            if len(key) != KEY_BYTES:
                raise _malformed(f"a key of bytes has {KEY_BYTES} of them, and this has {len(key)}")
        elif not isinstance(key, str):
            raise TypeError(f"a key is bytes or str, and the provider gave {_kind(key)}")
        elif key.startswith(PREFIX):
            self._raw = _decoded(key)
        elif key:
            self._passphrase = _encoded(unicodedata.normalize("NFC", key))
        else:
            raise _malformed("an empty passphrase protects nothing")

    def __repr__(self) -> str:
        return "<walkv key>"

    def new_kdf(self, random_bytes: Callable[[int], bytes]) -> tuple[Any, ...]:
        """How a key-encryption key is to be derived from this one from now on."""
        return (random_bytes(SALT_BYTES), *_SCRYPT) if self._passphrase else NO_KDF

    def derive(self, kdf: tuple[Any, ...], store_id: bytes) -> tuple[bytes, bytes] | None:
        """Key-encryption key and check; None if this is a key and a passphrase is wanted, or the
        reverse. Cost: with a passphrase a quarter of a second the first time."""
        if bool(kdf) != bool(self._passphrase):
            return None
        if self._derived is None or self._derived[0] != (kdf, store_id):
            master = cipher.stretched(self._passphrase, *kdf) if kdf else self._raw
            made = cipher.derived(master, b"walkv key" + store_id)
            check = cipher.derived(master, b"walkv check" + store_id)[:CHECK_BYTES]
            self._derived = ((kdf, store_id), made, check)
        return self._derived[1:]


def _kind(value: object) -> str:
    return type(value).__name__


def _malformed(reason: str) -> EncryptionError:
    return EncryptionError(
        f"{reason}; a key is {KEY_BYTES} bytes, text that begins with {PREFIX!r}, or a passphrase",
        reason="wrong",
    )


def _encoded(passphrase: str) -> bytes:
    with suppress(UnicodeEncodeError):  # which has the passphrase in it
        return passphrase.encode("utf-8", "surrogateescape")
    raise _malformed("a passphrase with lone surrogates is no text")


def as_text(key: bytes) -> str:
    """A key of 32 bytes as text, for a variable or a file."""
    return PREFIX + urlsafe_b64encode(Secret(key)._raw).decode()


def _decoded(text: str) -> bytes:
    try:
        key = b64decode(text.removeprefix(PREFIX).strip(), b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise _malformed(f"what follows {PREFIX!r} is no key")
    return key


Key = bytes | str | Callable[[], bytes | str] | Secret
"""What opens an encrypted store: 32 bytes, a passphrase or a key as text, what returns one; or what
was made of one of these before."""


class Keyring:
    """The keys of one opener: what it was given, and the data keys of the store's ring.

    Without a ring it is that of a store that is not encrypted.

    Attributes:
        ring: as the manifest has it; None where the store is not encrypted.
    """

    __slots__ = ("_data_keys", "_random_bytes", "_secret", "_store_id", "ring")

    def __init__(
        self,
        secret: Secret | None = None,
        random_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        """``random_bytes`` is needed only by who writes."""
        self._secret = secret
        self._random_bytes = _refuse_to_draw if random_bytes is None else random_bytes
        self._store_id = b""
        self._data_keys: dict[int, bytes] = {}
        self.ring: Ring | None = None

    def __repr__(self) -> str:
        return f"<walkv keyring {sorted(self._data_keys)}>"

    @property
    def newest(self) -> int:
        """The number of the data key for new files; 0 where they are not encrypted."""
        return 0 if self.ring is None else self.ring.newest

    @property
    def secret(self) -> Secret | None:
        """What opens the store, for copies that are to open with the same; None where it is not
        encrypted."""
        return None if self.ring is None else self._secret

    # -- the ring --------------------------------------------------------------------------------

    def begin(self, store_id: bytes) -> None:
        """Make the keys of a new store; none if no key was given."""
        if self._secret is not None:
            self._store_id = store_id
            self._data_keys = {1: self._random_bytes(KEY_BYTES)}
            self.ring = self._wrap(self._secret)

    def unlock(self, ring: Ring | None, store_id: bytes, path: str) -> None:
        """Take in the ring of a manifest.

        What was unwrapped before is not unwrapped again: so a reader goes on when the user's key
        was changed, as long as there is no new data key.

        Raises:
            EncryptionError: no key, a wrong one, or one for a store that is not encrypted.
            TamperedError: the key is right and a data key does not unwrap.
        """
        if ring is None:
            if self._secret is not None and not self._secret.ambient:
                raise EncryptionError(
                    f"{path}: a key was given, and this store is not encrypted; open it without "
                    "one, or move its data to a new store that is made with the key",
                    path=path,
                    reason="not-encrypted",
                )
            self._data_keys, self.ring = {}, None
            return
        known = self._data_keys if store_id == self._store_id else {}
        if known and ring.newest < max(known):
            raise TamperedError(
                "this manifest has fewer data keys than one that was there before it", path=path
            )
        if not all(number in known for number, _ in ring.keys):
            known = self._unwrapped(ring, store_id, path)
        self._store_id = store_id
        self._data_keys = {number: known[number] for number, _ in ring.keys}
        self.ring = ring

    def _unwrapped(self, ring: Ring, store_id: bytes, path: str) -> dict[int, bytes]:
        if self._secret is None:
            raise EncryptionError(
                f"{path}: this store is encrypted, and no key was given; open it with key=, or set "
                f"{VARIABLE}",
                path=path,
                reason="missing",
            )
        found = self._secret.derive(ring.kdf, store_id)
        opened = {}
        if found is not None:
            for number, wrapped in ring.keys:
                data_key = cipher.unwrapped(
                    found[0], wrapped, _purpose(store_id, number, ring.newest)
                )
                if data_key is not None:
                    opened[number] = data_key
        right = found is not None and hmac.compare_digest(found[1], ring.check)
        if not right and not opened:
            raise EncryptionError(
                f"{path}: this is not the key of the store; if its key was changed, open it again "
                "with the new one",
                path=path,
                reason="wrong",
            )
        if not right or len(opened) < len(ring.keys):
            raise TamperedError(
                "the keys in the manifest are not those that were wrapped with this key", path=path
            )
        return opened

    def _wrap(self, secret: Secret) -> Ring:
        kdf = secret.new_kdf(self._random_bytes)
        found = secret.derive(kdf, self._store_id)
        assert found is not None
        key, check = found
        keys = tuple(
            (
                number,
                cipher.wrapped(
                    key,
                    data_key,
                    _purpose(self._store_id, number, max(self._data_keys)),
                    self._random_bytes(NONCE_BYTES),
                ),
            )
            for number, data_key in sorted(self._data_keys.items())
        )
        return Ring(kdf, check, keys)

    def copy(self) -> Keyring:
        """Another one, to read something with that is not to change this one."""
        copy = Keyring(self._secret, self._random_bytes)
        copy._store_id, copy.ring = self._store_id, self.ring
        copy._data_keys = dict(self._data_keys)
        return copy

    def rewrapped(self, secret: Secret, *, rotate: bool) -> Keyring:
        """What this is to become under another user's key, and with another data key if
        ``rotate``. Cost: with a passphrase a quarter of a second."""
        made = self.copy()
        if rotate:
            number = self.newest + 1
            if number > MAX_KEY_NUMBER:
                raise LimitError(
                    f"this store has had {MAX_KEY_NUMBER} data keys, and there can be no more; "
                    "move its data to a new store",
                    name="MAX_KEY_NUMBER",
                    limit=MAX_KEY_NUMBER,
                    actual=number,
                )
            made._data_keys[number] = self._random_bytes(KEY_BYTES)
        made._secret = secret
        made.ring = made._wrap(secret)
        return made

    def only(self, numbers: set[int]) -> Keyring:
        """What this is to become without the data keys that are neither the newest nor among
        ``numbers``."""
        assert self.ring is not None
        made = self.copy()
        kept = {*numbers, self.newest}
        keys = tuple(pair for pair in self.ring.keys if pair[0] in kept)
        made.ring = Ring(self.ring.kdf, self.ring.check, keys)
        made._data_keys = {number: self._data_keys[number] for number, _ in keys}
        return made

    def joined(self, others: Iterable[Keyring], numbers: set[int]) -> Keyring:
        """What this is to become with other rings' data keys of these numbers, which it may lack:
        files of several moments of a store are put together. Cost: as ``rewrapped``.

        Raises:
            ValueError: one of the numbers is that of two data keys. A store that was restored goes
                on with numbers that the other one may use as well.
        """
        assert self._secret is not None
        made = self.copy()
        for other in others:
            for number in numbers & other._data_keys.keys():
                data_key = other._data_keys[number]
                if made._data_keys.setdefault(number, data_key) != data_key:
                    raise ValueError(f"there are two data keys with the number {number}")
        made.ring = made._wrap(self._secret)
        return made

    def as_of(self, ring: Ring) -> Keyring:
        """This one, with the ring of an earlier manifest, as far as the data keys are known."""
        made = self.copy()
        made.ring = Ring(
            ring.kdf, ring.check, tuple(p for p in ring.keys if p[0] in made._data_keys)
        )
        return made

    def become(self, other: Keyring) -> None:
        """Go on as ``other``, whose ring is in a durable manifest now."""
        self._secret = other._secret
        self._data_keys = other._data_keys
        self.ring = other.ring

    # -- manifests and files ---------------------------------------------------------------------

    def tag(self, data: bytes) -> bytes:
        """What authenticates a manifest."""
        key = cipher.derived(self._data_keys[self.newest], b"walkv manifest" + self._store_id)
        return hmac.digest(key, data, "sha256")

    def authenticate(self, data: bytes, tag: bytes, path: str) -> None:
        """Raise ``TamperedError`` unless this is the tag of a manifest's ``data``."""
        if not hmac.compare_digest(self.tag(data), tag):
            raise TamperedError(
                "the checksum is right, and this manifest was not written with the store's key",
                path=path,
            )

    def for_file(self, header: FileHeader, path: str) -> Sealer | None:
        """What seals and opens a file's payloads; None in a store that is not encrypted.

        Raises:
            TamperedError: a file that is not encrypted, or not under one of the ring's keys; or one
                that is, and the store is not.
        """
        number = header.key_number
        if not number and self.ring is None:
            return None
        data_key = self._data_keys.get(number)
        if data_key is None:
            reason = "this file is under a key that the store does not have"
            if self.ring is None:
                reason = "this file is encrypted, and by its manifest the store is not"
            elif not number:
                reason = "this file is not encrypted, and the store is"
            raise TamperedError(reason, path=path, offset_bytes=12)
        return Sealer(data_key, header.encode(), path, self._random_bytes)


def _refuse_to_draw(size_bytes: int) -> bytes:
    raise AssertionError("nothing is sealed with the keys of a reader")


def _purpose(store_id: bytes, number: int, newest: int) -> bytes:
    numbers = number.to_bytes(2, "little") + newest.to_bytes(2, "little")
    return b"walkv data key" + store_id + numbers


NO_KEYS: Final = Keyring()
"""The keyring of stores that are not encrypted."""
