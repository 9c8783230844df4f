"""Sealed payloads, keys, and the ring: each alone, without a store."""

from __future__ import annotations

import builtins
import hashlib
import subprocess
import sys
from typing import Any

import pytest

import walkv
from walkv import EncryptionError, TamperedError
from walkv.engine import cipher, frame, keyring
from walkv.engine.cipher import NONCE_BYTES, SEAL_BYTES, Sealer
from walkv.engine.keyring import NO_KEYS, Keyring, Ring, Secret, as_text
from walkv.engine.segment import SegmentHeader

KEY = bytes(range(32))
STORE_ID = b"s" * 16
HEADER = SegmentHeader(STORE_ID, 7, 1, 0, 1)


class Random:
    """A source that never gives the same bytes twice."""

    def __init__(self) -> None:
        self.drawn: list[bytes] = []

    def __call__(self, size_bytes: int) -> bytes:
        self.drawn.append(hashlib.shake_256(b"%d" % len(self.drawn)).digest(size_bytes))
        return self.drawn[-1]


def sealer(key: bytes = KEY, header: bytes = b"h" * 64, random: Random | None = None) -> Sealer:
    return Sealer(key, header, "where", random or Random())


@pytest.mark.parametrize("size", [0, 1, 100, 70_000])
def test_a_payload_comes_back(size: int) -> None:
    payload = bytes(size)
    sealed = sealer().seal(payload, b"head", 64)
    assert len(sealed) == size + SEAL_BYTES
    assert sealer().open(sealed, b"head", 64) == payload
    assert sealer().open(memoryview(sealed), b"head", 64) == payload


def test_every_bit_and_every_truncation_is_noticed() -> None:
    sealed = sealer().seal(b"payload", b"head", 64)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TamperedError) as caught:
            sealer().open(bytes(changed), b"head", 64)
        assert (caught.value.path, caught.value.offset_bytes) == ("where", 64)
    for length in range(len(sealed)):
        with pytest.raises(TamperedError):
            sealer().open(sealed[:length], b"head", 64)


@pytest.mark.parametrize(
    ("opener", "head", "offset"),
    [
        (sealer(bytes(32)), b"head", 64),
        (sealer(header=b"i" * 64), b"head", 64),
        (sealer(), b"heat", 64),
        (sealer(), b"head", 65),
    ],
)
def test_it_opens_nowhere_else(opener: Sealer, head: bytes, offset: int) -> None:
    with pytest.raises(TamperedError):
        opener.open(sealer().seal(b"payload", b"head", 64), head, offset)


def test_no_nonce_comes_twice() -> None:
    random = Random()
    one = sealer(random=random)
    nonces = [one.seal(b"", b"", 64)[:NONCE_BYTES] for _ in range(1000)]
    assert len(set(nonces)) == 1000
    # Drawn in bulk: a draw is a system call.
    assert len(random.drawn) == 4
    assert all(any(nonce in drawn for drawn in random.drawn) for nonce in nonces)


def test_a_nonce_is_gone_even_if_sealing_is_interrupted() -> None:
    random = Random()
    one = sealer(random=random)
    one.seal(b"", b"", 64)
    taken: list[bytes] = []

    def interrupted(nonce: bytes, *rest: Any) -> bytes:
        taken.append(nonce)
        raise KeyboardInterrupt

    encrypt, one._encrypt = one._encrypt, interrupted
    with pytest.raises(KeyboardInterrupt):
        one.seal(b"", b"", 64)
    one._encrypt = encrypt
    assert one.seal(b"", b"", 64)[:NONCE_BYTES] != taken[0]


def test_a_frame_is_sealed_with_its_header_and_place() -> None:
    fields: dict[str, Any] = {
        "salt": 7,
        "offset": 64,
        "operation_count": 1,
        "first_sequence": 3,
        "time_ns": 4,
        "synced_offset": 5,
    }
    data = frame.encode(b"payload", **fields, sealer=sealer())
    found = frame.decode(data, 0, salt=7, offset=64)
    assert isinstance(found, frame.Frame)
    assert len(found.payload) == len(b"payload") + SEAL_BYTES
    opened = frame.unseal(found, salt=7, offset=64, sealer=sealer())
    assert opened == found._replace(payload=b"payload")
    changes: list[dict[str, Any]] = [
        {"kind": frame.SYNC_MARKER},
        {"operation_count": 2},
        {"first_sequence": 4},
        {"time_ns": 5},
        {"synced_offset": 6},
    ]
    for change in changes:
        with pytest.raises(TamperedError):
            frame.unseal(found._replace(**change), salt=7, offset=64, sealer=sealer())
    with pytest.raises(TamperedError):
        frame.unseal(found, salt=7, offset=65, sealer=sealer())
    with pytest.raises(TamperedError):
        frame.unseal(found, salt=9, offset=64, sealer=sealer())


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_as_text_is_the_same_key() -> None:
    text = as_text(KEY)
    assert text.startswith("walkv-key-1:")
    assert Secret(text).derive((), STORE_ID) == Secret(KEY).derive((), STORE_ID)
    assert Secret(lambda: text).derive((), STORE_ID) == Secret(KEY).derive((), STORE_ID)
    assert Secret(bytearray(KEY)).derive((), STORE_ID) == Secret(KEY).derive((), STORE_ID)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"x" * 31,
        b"x" * 33,
        "",
        "walkv-key-1:",
        "walkv-key-1:AAAA",
        "walkv-key-1:\x80??",
        as_text(KEY)[:-2],
    ],
)
def test_what_is_no_key(key: Any) -> None:
    for given in (key, lambda: key):
        with pytest.raises(EncryptionError) as caught:
            Secret(given)
        assert caught.value.reason == "wrong"
        if len(key) > 12:
            assert str(key[-10:]).strip("b'") not in str(caught.value)


@pytest.mark.parametrize("key", [7, None, [KEY], lambda: None, lambda: lambda: KEY])
def test_what_has_no_type_of_key(key: Any) -> None:
    with pytest.raises(TypeError):
        Secret(key)


def test_passphrases_are_the_same_however_they_are_composed(small_scrypt: None) -> None:
    kdf = Secret("a").new_kdf(Random())
    assert Secret("caf\u00e9").derive(kdf, STORE_ID) == Secret("cafe\u0301").derive(kdf, STORE_ID)
    assert Secret("caf\u00e9").derive(kdf, STORE_ID) != Secret("cafe").derive(kdf, STORE_ID)
    assert Secret("caf\udce9").derive(kdf, STORE_ID)  # a variable that is no UTF-8


@pytest.fixture
def small_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_SCRYPT", (1 << 8, 8, 1))


def ring_of(key: Any) -> Ring:
    made = Keyring(Secret(key), Random())
    made.begin(STORE_ID)
    assert made.ring is not None
    return made.ring


def test_a_ring_opens_with_its_key_alone(small_scrypt: None) -> None:
    keys: list[Any] = [KEY, bytes(32), "a passphrase", "another"]
    for key in keys:
        ring = ring_of(key)
        for other in keys:
            opener = Keyring(Secret(other))
            if other == key:
                opener.unlock(ring, STORE_ID, "p")
                assert opener.newest == 1
                continue
            with pytest.raises(EncryptionError) as caught:
                opener.unlock(ring, STORE_ID, "p")
            assert (caught.value.reason, caught.value.path) == ("wrong", "p")
    with pytest.raises(EncryptionError) as missing:
        NO_KEYS.unlock(ring_of(KEY), STORE_ID, "p")
    assert missing.value.reason == "missing"


def test_a_ring_of_another_store_does_not_open() -> None:
    with pytest.raises(EncryptionError):
        Keyring(Secret(KEY)).unlock(ring_of(KEY), b"t" * 16, "p")


@pytest.mark.parametrize("part", ["check", "wrapped"])
def test_a_ring_with_one_part_changed_is_told_from_a_wrong_key(part: str) -> None:
    ring = ring_of(KEY)
    check, (number, wrapped) = ring.check, ring.keys[0]
    if part == "check":
        check = bytes(16)
    else:
        wrapped = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    with pytest.raises(TamperedError):
        Keyring(Secret(KEY)).unlock(Ring((), check, ((number, wrapped),)), STORE_ID, "p")


def test_data_keys_cannot_change_places() -> None:
    known = Keyring(Secret(KEY), Random())
    known.begin(STORE_ID)
    two = known.rewrapped(Secret(KEY), rotate=True).ring
    assert two is not None
    swapped = Ring(two.kdf, two.check, ((1, two.keys[1][1]), (2, two.keys[0][1])))
    with pytest.raises(TamperedError):
        Keyring(Secret(KEY)).unlock(swapped, STORE_ID, "p")


SALT = bytes(16)
WRAPPED = bytes(60)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        7,
        [],
        [(), bytes(16)],
        [(), bytes(15), ((1, WRAPPED),)],
        [(), "x" * 16, ((1, WRAPPED),)],
        [(), bytes(16), ()],
        [(), bytes(16), ((0, WRAPPED),)],
        [(), bytes(16), ((1 << 16, WRAPPED),)],
        [(), bytes(16), ((2, WRAPPED), (1, WRAPPED))],
        [(), bytes(16), ((1, WRAPPED), (1, WRAPPED))],
        [(), bytes(16), ((1, WRAPPED[1:]),)],
        [(), bytes(16), (("1", WRAPPED),)],
        [(), bytes(16), (1,)],
        *(
            [kdf, bytes(16), ((1, WRAPPED),)]
            for kdf in (
                (SALT,),
                (SALT, 2, 1),
                ("salt", 2, 1, 1),
                (SALT, 2, 1, 1.0),
                (SALT, 0, 1, 1),
                (SALT, 3, 1, 1),
                (SALT, 1 << 21, 1, 1),
                (SALT, 1 << 20, 32, 1),
                (SALT, 2, 33, 1),
                (SALT, 2, 1, 65),
                (SALT, -2, 1, 1),
            )
        ),
    ],
)
def test_what_is_no_ring(fields: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Ring.of(fields)


def test_the_largest_work_that_a_ring_may_ask_for() -> None:
    assert Ring.of([(SALT, 1 << 20, 8, 2), bytes(16), ((1, WRAPPED),)]).newest == 1


def test_there_are_no_more_data_keys_than_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MAX_KEY_NUMBER", 2)
    known = Keyring(Secret(KEY), Random())
    known.begin(STORE_ID)
    known.become(known.rewrapped(Secret(KEY), rotate=True))
    with pytest.raises(walkv.LimitError) as caught:
        known.rewrapped(Secret(KEY), rotate=True)
    assert (caught.value.limit, caught.value.actual) == (2, 3)
    assert known.rewrapped(Secret(KEY), rotate=False).newest == 2


def test_files_are_opened_with_the_key_that_they_state() -> None:
    known = Keyring(Secret(KEY), Random())
    known.begin(STORE_ID)
    assert known.for_file(HEADER, "p") is not None
    assert NO_KEYS.for_file(SegmentHeader(STORE_ID, 7, 1, 0), "p") is None
    wrong = [
        (NO_KEYS, HEADER, "by its manifest the store is not"),
        (known, SegmentHeader(STORE_ID, 7, 1, 0), "not encrypted"),
        (known, SegmentHeader(STORE_ID, 7, 1, 0, 2), "does not have"),
    ]
    for opener, header, words in wrong:
        with pytest.raises(TamperedError, match=words) as caught:
            opener.for_file(header, "p")
        assert caught.value.path == "p"


def test_a_reader_seals_nothing() -> None:
    known = Keyring(Secret(KEY))
    known.unlock(ring_of(KEY), STORE_ID, "p")
    found = known.for_file(HEADER, "p")
    assert found is not None
    with pytest.raises(AssertionError, match="reader"):
        found.seal(b"payload", b"head", 64)


def test_keys_are_not_shown(small_scrypt: None) -> None:
    known = Keyring(Secret("a passphrase"), Random())
    known.begin(STORE_ID)
    shown = repr([known, Secret(KEY), Secret("a passphrase"), sealer()])
    assert "passphrase" not in shown
    assert repr(KEY)[2:-1] not in shown


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(cipher, "_loaded", [])
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EncryptionError, match=r"walkv\[encryption\]") as caught:
        sealer()
    assert caught.value.reason == "not-installed"


def test_the_package_is_loaded_only_for_encrypted_stores() -> None:
    code = (
        "import sys, tempfile, walkv\n"
        "walkv.open(tempfile.mkdtemp() + '/s').close()\n"
        "print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
