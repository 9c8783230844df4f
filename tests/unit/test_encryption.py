"""Encrypted stores: what opens them, what is hidden, what is noticed, and changing the key."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from xxhash import xxh3_64_digest

import walkv
from walkv import CorruptionError, EncryptionError, TamperedError, limits
from walkv.engine import files, frame, keyring, manifest, segment
from walkv.engine.core import Engine
from walkv.engine.keyring import Keyring, Secret, as_text
from walkv.engine.snapshot import layout
from walkv.engine.vfs import OsFileSystem
from walkv.integrations.langgraph import WalkvSaver
from walkv.interfaces.managers import BackupManager, DatabaseManager
from walkv.interfaces.repository import AgentConversation, StoreConfig, WalkvRepository
from walkv.testing import Fault, FaultyFileSystem, SimulatedFileSystem

FS = OsFileSystem()
KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
SEED_MASK = (1 << 64) - 1


@pytest.fixture(autouse=True)
def small_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_SCRYPT", (1 << 8, 8, 1))
    monkeypatch.delenv(keyring.VARIABLE, raising=False)


def fill(path: Path, key: Any = KEY, count: int = 400, **options: Any) -> dict[bytes, bytes]:
    """A store with a snapshot, a sealed segment and a tail."""
    entries = {b"name/%04d" % n: b"content of %04d " % n * 9 for n in range(count)}
    half = count // 2
    with walkv.open(path, key=key, sync=walkv.WriteBack(), **options) as store:
        for name in list(entries)[:half]:
            store.put(name, entries[name])
        store.compact()
        for name in list(entries)[half:]:
            store.put(name, entries[name])
        engine = store.engine
        assert isinstance(engine, Engine)
        with engine.commit_lock:
            engine._rotate()
        store.put(b"name/tail", b"content of the tail")
    return {**entries, b"name/tail": b"content of the tail"}


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    fill(tmp_path / "s")
    return tmp_path / "s"


def refused(path: Path, kind: type[Exception] = TamperedError, **options: Any) -> Any:
    """The error of opening a store and reading all of it."""
    options = {"key": KEY, "create": False, **options}
    with pytest.raises(kind) as caught, walkv.open(path, **options) as store:
        list(store.scan())
    return caught.value


# -- what opens a store ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, as_text(KEY), "a passphrase", lambda: KEY, lambda: "a pass"])
def test_it_comes_back(tmp_path: Path, key: Any) -> None:
    entries = fill(tmp_path / "s", key)
    for read_only in (True, False):
        with walkv.open(tmp_path / "s", key=key, read_only=read_only) as store:
            assert dict(store.scan()) == entries
            assert store.get(b"name/0007") == entries[b"name/0007"]
            assert store.verify().ok
            assert store.stats().encrypted
            assert [change.operations for change in store.changes()]
    with walkv.open(tmp_path / "s", key=key) as store:
        store.compact()
        assert dict(store.scan()) == entries


def test_after_kill(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s", key=KEY)
    store.put(b"k", b"v")
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    store.close()
    (tail,) = (tmp_path / "t" / "log").iterdir()
    tail.write_bytes(tail.read_bytes().rstrip(b"\0") + b"torn")
    with walkv.open(tmp_path / "t", key=KEY) as store:
        assert dict(store.scan()) == {b"k": b"v"}
        assert store.recovery_report.cut_bytes == 4
        quarantined = Path(store.recovery_report.quarantine_path or "")
        assert quarantined.read_bytes() == b"torn"


def test_without_a_key_or_with_another(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(store_path)
    for read_only in (True, False):
        error = refused(store_path, EncryptionError, key=None, read_only=read_only)
        assert (error.reason, error.path) == ("missing", str(store_path / "MANIFEST"))
        assert "WALKV_KEY" in str(error)
        for key in (OTHER, as_text(OTHER), "a passphrase", lambda: OTHER):
            error = refused(store_path, EncryptionError, key=key, read_only=read_only)
            assert error.reason == "wrong"
    assert contents(store_path) == before
    with walkv.open(store_path, key=KEY) as store:  # and the lock was given back
        assert store.count()


def test_a_key_for_a_store_that_is_not_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "s", None)
    for read_only in (True, False):
        error = refused(tmp_path / "s", EncryptionError, read_only=read_only)
        assert error.reason == "not-encrypted"
    # A variable is not meant for this store in particular.
    monkeypatch.setenv("WALKV_KEY", as_text(KEY))
    with walkv.open(tmp_path / "s") as store:
        assert not store.stats().encrypted
        with pytest.raises(EncryptionError) as caught:
            store.rekey(OTHER)
        assert caught.value.reason == "not-encrypted"


def test_the_key_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALKV_KEY", as_text(KEY))
    with walkv.AgentStore(tmp_path / "s") as agent:
        agent.messages.append("s1", role="user", content="hello")
    monkeypatch.setenv("WALKV_KEY", "another passphrase")
    assert refused(tmp_path / "s", EncryptionError, key=None).reason == "wrong"
    with walkv.open(tmp_path / "s", key=KEY) as store:  # what is given goes first
        assert store.count()
    monkeypatch.setenv("WALKV_KEY", "walkv-key-1:no")
    assert refused(tmp_path / "s", EncryptionError, key=None).reason == "wrong"
    monkeypatch.setenv("WALKV_KEY", "")
    assert refused(tmp_path / "s", EncryptionError, key=None).reason == "missing"


def test_a_provider_is_called_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def provider() -> bytes:
        calls.append(1)
        return KEY

    with walkv.open(tmp_path / "s", key=provider) as store:
        store.put(b"k", b"v")
        store.compact()
    assert len(calls) == 1

    def failing() -> bytes:
        raise ConnectionError("no such service")

    with pytest.raises(ConnectionError):
        walkv.open(tmp_path / "s", key=failing)
    walkv.open(tmp_path / "s", key=KEY).close()


def test_tasks_agents_and_adapters(tmp_path: Path) -> None:
    async def run() -> None:
        async with await walkv.aopen(tmp_path / "s", key=KEY) as store:
            await store.put(b"k", b"v")
            await store.rekey(OTHER)
        async with walkv.AsyncAgentStore(tmp_path / "a", key=KEY) as agent:
            await agent.messages.append("s1", role="user", content="hello")

    asyncio.run(run())
    with walkv.open(tmp_path / "s", key=OTHER) as store:
        assert store[b"k"] == b"v"
    with walkv.AgentStore(tmp_path / "a", key=KEY) as agent:
        assert [m.content for m in agent.messages.history("s1")] == ["hello"]
    with WalkvSaver(tmp_path / "l", key=KEY), pytest.raises(TypeError) as caught:
        WalkvSaver(tmp_path / "l", key=OTHER)
    assert repr(KEY)[2:-1] not in str(caught.value)
    assert refused(tmp_path / "l", EncryptionError, key=None).reason == "missing"


# -- what is hidden --------------------------------------------------------------------------------


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "LOCK"
    }


@pytest.mark.parametrize("policy", [walkv.Wal(), walkv.WriteBack()])
def test_nothing_is_on_disk_as_it_is(
    tmp_path: Path, policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: dict[str, bytes] = {}
    secret = "a passphrase that is kept nowhere"
    with walkv.open(
        tmp_path / "s",
        key=secret,
        sync=policy,
        memtable_bytes=limits.MIN_MEMTABLE_BYTES,
        keep_log=walkv.KeepLog(),
    ) as store:
        for number in range(1500):
            store.put(b"name/%d" % number, b"content/%d" % number, ttl_seconds=1e6)
            if number % 300 == 0:
                seen |= contents(tmp_path / "s")
        store.rekey(as_text(KEY))
        store.delete_range(b"name/1")
        seen |= contents(tmp_path / "s")
        store.compact()
    seen |= contents(tmp_path / "s")
    assert {Path(name).suffix for name in seen} >= {".wal", ".snap", ".kept"}
    words = [b"name/", b"content/", secret.encode(), KEY, as_text(KEY).encode()]
    for data in [*seen.values(), caplog.text.encode(), (tmp_path / "s" / "LOCK").read_bytes()]:
        assert not [word for word in words if word in data]


def test_stores_without_a_key_have_none_of_it(tmp_path: Path) -> None:
    fill(tmp_path / "s", None)
    for name, data in contents(tmp_path / "s").items():
        if name == "MANIFEST":
            assert data[8:12] == (1).to_bytes(4, "little")
        elif "quarantine" not in name:
            assert data[12:16] == bytes(4)


# -- what is noticed: somebody who can write files, and compute checksums --------------------------


def salt_of(data: bytes) -> int:
    return int.from_bytes(data[32:40], "little")


def with_checksum(data: bytes, salt: int, offset: int) -> bytes:
    """A frame or page with the checksum for its place."""
    return xxh3_64_digest(data[8:], (salt + offset) & SEED_MASK) + data[8:]


def with_header(data: bytes, **changes: tuple[int, bytes]) -> bytes:
    """A file whose header was changed, with its checksum."""
    header = bytearray(data[:56])
    for at, value in changes.values():
        header[at : at + len(value)] = value
    return bytes(header) + xxh3_64_digest(bytes(header)) + data[64:]


def frames_of(data: bytes) -> list[tuple[int, int]]:
    """Where the frames of a segment begin and end."""
    found, offset = [], segment.HEADER_BYTES
    while isinstance(
        each := frame.decode(data, offset, salt=salt_of(data), offset=offset), frame.Frame
    ):
        found.append((offset, each.end_offset))
        offset = each.end_offset
    return found


def segments(path: Path) -> list[Path]:
    return sorted((path / "log").glob("*.wal"))


def snapshots(path: Path) -> list[Path]:
    return sorted((path / "snapshots").iterdir())


@pytest.mark.parametrize("at", [3, 11, 16, 20, 28, 36, 44, 60, -1])
def test_a_changed_frame(store_path: Path, at: int) -> None:
    path = segments(store_path)[0]
    data = bytearray(path.read_bytes())
    start, stop = frames_of(bytes(data))[2]
    place = start + at if at >= 0 else stop - 1
    changed = bytearray(data[start:stop])
    if at == 3:
        return  # the checksum itself: damage, as everywhere
    changed[place - start] ^= 4 if at == 11 else 1
    if at == 36:
        changed[36:44] = bytes(8)
    data[start:stop] = with_checksum(bytes(changed), salt_of(bytes(data)), start)
    path.write_bytes(data)
    error = refused(store_path, CorruptionError)
    assert error.path == str(path)
    assert error.offset_bytes == start
    if at != 11:  # a kind that is none is no frame at all
        assert isinstance(error, TamperedError)


def test_frames_that_changed_places(store_path: Path) -> None:
    path = segments(store_path)[0]
    data = path.read_bytes()
    salt, frames = salt_of(data), frames_of(data)
    (a, b), (c, d) = frames[2], frames[3]
    assert b - a == d - c
    one, two = data[a:b], data[c:d]
    for first, second, kind in (
        (two, one, CorruptionError),
        (one[:44] + two[44:], two[:44] + one[44:], TamperedError),
    ):
        moved = with_checksum(first, salt, a) + with_checksum(second, salt, c)
        path.write_bytes(data[:a] + moved + data[d:])
        assert refused(store_path, kind).offset_bytes == a


def test_a_frame_of_another_segment_and_of_another_store(store_path: Path, tmp_path: Path) -> None:
    one, tail = segments(store_path)
    fill(tmp_path / "other")
    for source in (one, segments(tmp_path / "other")[1]):
        data, other = tail.read_bytes(), source.read_bytes()
        start = frames_of(data)[0][0]
        a, b = frames_of(other)[0]
        moved = bytearray(other[a:b])
        moved[8:44] = data[start + 8 : start + 44]
        moved[12:16] = (b - a - 44).to_bytes(4, "little")
        tail.write_bytes(data[:start] + with_checksum(bytes(moved), salt_of(data), start))
        error = refused(store_path)
        assert (error.path, error.offset_bytes) == (str(tail), start)
        tail.write_bytes(data)


def test_a_segment_of_another_store(store_path: Path, tmp_path: Path) -> None:
    fill(tmp_path / "other")
    store_id = manifest.look(FS, str(store_path)).store_id
    for mine, other in zip(segments(store_path), segments(tmp_path / "other"), strict=True):
        assert mine.name == other.name
        before = mine.read_bytes()
        mine.write_bytes(other.read_bytes())
        refused(store_path, CorruptionError)
        mine.write_bytes(with_header(other.read_bytes(), store_id=(16, store_id)))
        assert refused(store_path).path == str(mine)
        mine.write_bytes(before)


@pytest.mark.parametrize(
    "change",
    [
        {"salt": (32, b"salt")},
        {"created": (48, bytes(8))},
        {"key": (14, b"\2")},
        {"plain": (12, b"\0\0\0\0")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_header(store_path: Path, change: dict[str, tuple[int, bytes]]) -> None:
    for path in (*segments(store_path), *snapshots(store_path)):
        before = path.read_bytes()
        data = with_header(before, **change)
        if "salt" in change:
            if path.suffix == ".snap":
                continue  # all checksums would have to be made anew, without knowing where they are
            for start, stop in frames_of(before):
                moved = bytearray(data[start:stop])
                moved[8:11] = frame.mark(salt_of(data)).to_bytes(3, "little")
                data = (
                    data[:start] + with_checksum(bytes(moved), salt_of(data), start) + data[stop:]
                )
        path.write_bytes(data)
        assert refused(store_path).path == str(path)
        path.write_bytes(before)


def page_places(path: Path, store: Path) -> list[tuple[int, int]]:
    """Where the data pages of a snapshot are, as who has the key knows."""
    with walkv.open(store, key=KEY, read_only=True) as opened:
        point = opened.engine.pin()
        (reader,) = [s for s in point.sources.snapshots if s.path == str(path)]
        root, found = reader._root, []
        for number, base in enumerate(root.offsets):
            starts = reader._index(root, number).starts
            found += [(base + a, base + b) for a, b in pairwise(starts)]
    return found


def test_pages_that_changed_places(store_path: Path) -> None:
    (path,) = snapshots(store_path)
    data = path.read_bytes()
    salt = salt_of(data)
    places = page_places(path, store_path)
    pairs = [(p, q) for p in places for q in places if p < q and p[1] - p[0] == q[1] - q[0]]
    changed = 0
    for (a, b), (c, d) in [*pairs[:3], (places[0], places[0])]:
        moved = bytearray(data)
        moved[a:b] = with_checksum(data[c:d], salt, a)
        moved[c:d] = with_checksum(data[a:b], salt, c)
        if (a, b) == (c, d):  # none of equal length: then a bit of one
            moved[a + 20] ^= 1
            moved[a:b] = with_checksum(bytes(moved[a:b]), salt, a)
        path.write_bytes(moved)
        error = refused(store_path)
        assert (error.path, error.offset_bytes) == (str(path), a)
        changed += 1
    assert changed


@pytest.mark.parametrize("at", [8, 9, 10, 12, 16, 28, -1])
def test_a_changed_page(store_path: Path, at: int) -> None:
    (path,) = snapshots(store_path)
    data = bytearray(path.read_bytes())
    start, stop = page_places(path, store_path)[1]
    data[start + at if at >= 0 else stop - 1] ^= 1
    data[start:stop] = with_checksum(bytes(data[start:stop]), salt_of(data), start)
    path.write_bytes(data)
    error = refused(store_path)
    assert (error.path, error.offset_bytes) == (str(path), start)
    with walkv.open(store_path, key=KEY) as store:
        (problem,) = store.verify().problems
        assert isinstance(problem, TamperedError)
        with pytest.raises(TamperedError):
            store.compact()


def test_a_snapshot_of_another_store_and_an_older_one(store_path: Path, tmp_path: Path) -> None:
    (path,) = snapshots(store_path)
    known = manifest.look(FS, str(store_path))
    fill(tmp_path / "other")
    number = known.snapshots[0].snapshot_id
    other = snapshots(tmp_path / "other")[0].read_bytes()
    before = path.read_bytes()
    path.write_bytes(other)
    refused(store_path, CorruptionError)
    header = {"store_id": (16, known.store_id), "number": (40, number.to_bytes(8, "little"))}
    path.write_bytes(with_header(other, **header))
    assert refused(store_path, CorruptionError).path == str(path)
    path.write_bytes(before)
    with walkv.open(store_path, key=KEY) as store:
        store.compact()
    (newer,) = snapshots(store_path)
    (summary,) = manifest.look(FS, str(store_path)).snapshots
    changed = {"number": (40, summary.snapshot_id.to_bytes(8, "little"))}
    newer.write_bytes(with_header(before, **changed))
    assert refused(store_path, CorruptionError).path == str(newer)


def test_a_forged_footer(store_path: Path) -> None:
    (path,) = snapshots(store_path)
    data = path.read_bytes()
    offset = len(data) - layout.FOOTER_BYTES
    for at, value in ((24, 1), (32, 1), (40, 10**9)):
        footer = bytearray(data[offset:])
        footer[at : at + 8] = value.to_bytes(8, "little")
        path.write_bytes(data[:offset] + with_checksum(bytes(footer), salt_of(data), offset))
        assert refused(store_path, CorruptionError).path == str(path)


def manifest_with(data: bytes, payload: bytes) -> bytes:
    head = data[:12] + len(payload).to_bytes(4, "little")
    return head + xxh3_64_digest(head + payload) + payload


def test_every_byte_of_the_manifest_is_authentic(store_path: Path) -> None:
    path = store_path / "MANIFEST"
    data = path.read_bytes()
    kinds = set()
    for at in range(24, len(data)):
        payload = bytearray(data[24:])
        payload[at - 24] ^= 1
        path.write_bytes(manifest_with(data, bytes(payload)))
        with pytest.raises((CorruptionError, EncryptionError)) as caught:
            manifest.read(FS, str(store_path), Keyring(Secret(KEY)))
        kinds.add(type(caught.value))
        if at >= len(data) - 32:
            assert isinstance(caught.value, TamperedError)
    assert kinds == {TamperedError, CorruptionError, EncryptionError}


def test_damage_to_the_manifest_needs_no_key(store_path: Path) -> None:
    path = store_path / "MANIFEST"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    for key in (None, OTHER, KEY):
        error = refused(store_path, CorruptionError, key=key)
        assert not isinstance(error, TamperedError)


def test_a_manifest_without_encryption_in_its_place(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = manifest.look(FS, str(store_path))
    plain = manifest.Manifest(
        known.store_id,
        known.generation + 1,
        known.next_snapshot_id,
        known.last_sequence,
        known.created_ns,
        known.segments,
        known.snapshots,
    )
    (store_path / "MANIFEST").write_bytes(manifest.encode(plain))
    assert refused(store_path, EncryptionError).reason == "not-encrypted"
    assert "by its manifest" in str(refused(store_path, key=None))
    monkeypatch.setenv("WALKV_KEY", as_text(KEY))
    assert "by its manifest" in str(refused(store_path, key=None))


def test_a_manifest_of_ones_own(store_path: Path, tmp_path: Path) -> None:
    """Somebody makes a store with the same id and a key of theirs."""
    known = manifest.look(FS, str(store_path))
    theirs = Keyring(Secret(OTHER), FS.random_bytes)
    theirs.begin(known.store_id)
    forged = known.next(ring=theirs.ring)
    (store_path / "MANIFEST").write_bytes(manifest.encode(forged, theirs))
    assert refused(store_path, EncryptionError).reason == "wrong"
    # Their data key with our ring: it is ours that the tag is checked with.
    mixed = theirs.copy()
    mixed.ring = known.ring
    (store_path / "MANIFEST").write_bytes(manifest.encode(known.next(), mixed))
    assert refused(store_path).path == str(store_path / "MANIFEST")


def test_every_damage_of_a_small_store_has_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, key=KEY) as store:
        store.put(b"a", b"1")
        store.compact()
        store.put(b"b", b"2")
    expected = {b"a": b"1", b"b": b"2"}
    originals = contents(path)
    outcomes = {"refused": 0, "tampered": 0, "harmless": 0, "torn": 0}
    for name, data in originals.items():
        for at in range(0, len(data), 3):
            damaged = bytearray(data)
            damaged[at] ^= 1 << at % 8
            (path / name).write_bytes(damaged)
            try:
                with walkv.open(path, key=KEY, read_only=True) as store:
                    found = dict(store.scan())
                assert found == expected or name.startswith("log/"), (name, at)
                assert found.items() <= expected.items()
                outcomes["harmless" if found == expected else "torn"] += 1
            except (CorruptionError, walkv.FormatError) as error:
                outcomes["tampered" if isinstance(error, TamperedError) else "refused"] += 1
            (path / name).write_bytes(data)
    assert outcomes["refused"] > 100
    assert outcomes["tampered"] == 0


# -- changing the key ------------------------------------------------------------------------------


def numbers(path: Path) -> set[int]:
    """The data keys that the files of a store are under."""
    files = [*(path / "log").iterdir(), *snapshots(path)]
    return {
        int.from_bytes(file.read_bytes()[14:16], "little") for file in files if file.name != "KEEP"
    }


def ring_numbers(path: Path) -> list[int]:
    ring = manifest.look(FS, str(path)).ring
    assert ring is not None
    return [number for number, _ in ring.keys]


def test_only_the_new_key_opens(store_path: Path) -> None:
    with walkv.open(store_path, key=KEY) as store:
        entries = dict(store.scan())
        store.rekey(OTHER, rotate=False)
        assert dict(store.scan()) == entries
        assert (numbers(store_path), ring_numbers(store_path)) == ({1}, [1])
        store.rekey("a passphrase")
        assert (numbers(store_path), ring_numbers(store_path)) == ({2}, [2])
        assert dict(store.scan()) == entries
        store.put(b"more", b"1")
        store.compact()
        assert store.verify().ok
        assert store.changes(since=store.last_sequence)
    for key in (KEY, OTHER):
        assert refused(store_path, EncryptionError, key=key).reason == "wrong"
    with walkv.open(store_path, key="a passphrase") as store:
        assert dict(store.scan()) == {**entries, b"more": b"1"}
        store.rekey("a passphrase")
        assert ring_numbers(store_path) == [3]


def test_what_is_no_key_changes_nothing(store_path: Path) -> None:
    before = manifest.look(FS, str(store_path))
    with walkv.open(store_path, key=KEY) as store:
        for key in ("", b"short"):
            with pytest.raises(EncryptionError):
                store.rekey(key)
        with pytest.raises(TypeError):
            store.rekey(None)  # type: ignore[arg-type]
    assert manifest.look(FS, str(store_path)).ring == before.ring
    with (
        walkv.open(store_path, key=KEY, read_only=True) as reader,
        pytest.raises(walkv.ReadOnlyError),
    ):
        reader.rekey(OTHER)


def test_commits_go_on_while_the_key_is_changed(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s", key=KEY, memtable_bytes=limits.MIN_MEMTABLE_BYTES)
    store.put(b"%d/first" % 0, b"")
    stop = threading.Event()
    counts, errors = [0, 0, 0], []

    def commit(number: int) -> None:
        try:
            while not stop.is_set():
                store.put(b"%d/%06d" % (number, counts[number]), bytes(200), sync=walkv.WriteBack())
                counts[number] += 1
        except BaseException as error:  # noqa: BLE001  # shown below
            errors.append(error)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        store.rekey(bytes([number]) * 32, rotate=number % 3 != 2)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    store.close()
    with walkv.open(tmp_path / "s", key=bytes([5]) * 32) as store:
        for number in range(3):
            assert store.count(b"%d/0" % number) == counts[number] > 0
        assert store.verify().ok
    assert ring_numbers(tmp_path / "s")[-1] == 5


def test_raw_partitions_are_sealed_anew(store_path: Path) -> None:
    """A merge that copies pages as they are must not copy their seals."""
    with walkv.open(store_path, key=KEY) as store:
        entries = dict(store.scan())
        for number in range(3):  # ranges that overlap nothing
            store.put(b"z%d" % number, b"more")
            entries[b"z%d" % number] = b"more"
            store.compact()
        assert dict(store.scan()) == entries
        assert store.verify().ok


def test_a_key_that_kept_segments_are_under_is_kept(tmp_path: Path) -> None:
    entries = fill(tmp_path / "s", keep_log=walkv.KeepLog())
    with walkv.open(tmp_path / "s", key=KEY) as store:
        store.rekey(OTHER)
        assert ring_numbers(tmp_path / "s") == [1, 2]
        assert sum(len(change.operations) for change in store.changes()) == len(entries)
    with walkv.open(tmp_path / "s", key=OTHER, read_only=True) as store:
        assert sum(len(change.operations) for change in store.changes()) == len(entries)
    with walkv.open(tmp_path / "s", key=OTHER, keep_log=walkv.KeepLog(0, 0)) as store:
        store.rekey(OTHER)
        assert ring_numbers(tmp_path / "s") == [3]


def test_readers_while_the_key_is_changed(store_path: Path) -> None:
    with walkv.open(store_path, key=KEY) as store:
        reader = walkv.open(store_path, key=KEY, read_only=True)
        entries = dict(reader.scan())
        store.rekey(OTHER, rotate=False)
        store.put(b"more", b"1")
        assert reader.refresh()  # the data key is the one that it has
        assert reader[b"more"] == b"1"
        store.rekey(OTHER)
        store.put(b"more", b"2")
        for _ in range(2):
            with pytest.raises(EncryptionError) as caught:
                reader.refresh()
            assert caught.value.reason == "wrong"
            assert "open it again" in str(caught.value)
        assert dict(reader.scan()) == {**entries, b"more": b"1"}
        reader.close()
        with walkv.open(store_path, key=OTHER, read_only=True) as reader:
            assert reader[b"more"] == b"2"


@pytest.mark.parametrize("new_key", [KEY, OTHER])
def test_verify_does_not_take_in_an_older_ring(store_path: Path, new_key: bytes) -> None:
    with walkv.open(store_path, key=KEY) as store:
        old = (store_path / "MANIFEST").read_bytes()
        store.rekey(new_key)
        newest = (store_path / "MANIFEST").read_bytes()
        (store_path / "MANIFEST").write_bytes(old)
        assert not store.verify().ok
        (store_path / "MANIFEST").write_bytes(newest)
        store.put(b"more", b"1")
        store.compact()
        assert store.verify().ok
    assert numbers(store_path) == {2}


def opened_with_one_of(fs: Any, *keys: bytes) -> tuple[walkv.Store, bytes]:
    """The store, and the key that opens it; each of the others does not."""
    found: list[bytes] = []
    for key in keys:
        with suppress(EncryptionError):
            walkv.open("/s", key=key, filesystem=fs, create=False).close()
            found.append(key)
    (key,) = found
    return walkv.open("/s", key=key, filesystem=fs, create=False), key


def rekeyed(
    fs: SimulatedFileSystem, interrupt: Callable[[SimulatedFileSystem], Iterator[Any]]
) -> int:
    """Change the key, and look after every operation at what ``interrupt`` makes of the disk."""
    store = walkv.open("/s", key=KEY, filesystem=fs, memtable_bytes=limits.MIN_MEMTABLE_BYTES)
    entries = {b"%03d" % number: bytes([number]) * 300 for number in range(60)}
    for number, (key, value) in enumerate(entries.items()):
        store.put(key, value)
        if number == 30:
            store.compact()
    store.put(b"100", b"unsettled")
    entries[b"100"] = b"unsettled"
    seen: list[bytes] = []

    def look(operation: str, path: str) -> None:
        fs.on_operation = None
        for after in interrupt(fs):
            again, key = opened_with_one_of(after, KEY, OTHER)
            with again:
                assert dict(again.scan()) == entries, f"after {operation} {path}"
                assert again.verify().ok
                again.rekey(OTHER)
                assert dict(again.scan()) == entries
            again, _ = opened_with_one_of(after, OTHER, KEY)
            with again:
                assert dict(again.scan()) == entries
                ring = again.engine.catalog.manifest.ring
                assert ring is not None
                assert len(ring.keys) == 1
            seen.append(key)
        fs.on_operation = look

    fs.on_operation = look
    store.rekey(OTHER)
    fs.on_operation = None
    store.close()
    # First the old key opens it, then the new one.
    assert {KEY, OTHER} == set(seen)
    return len(seen)


def test_killed_at_every_operation_while_the_key_is_changed() -> None:
    def killed(fs: SimulatedFileSystem) -> Iterator[Any]:
        yield fs.after_kill()

    assert rekeyed(SimulatedFileSystem(), killed) > 20


def test_the_power_fails_at_every_operation_while_the_key_is_changed() -> None:
    seen: set[bytes] = set()

    def failed(fs: SimulatedFileSystem) -> Iterator[Any]:
        for disk in fs.crash_states(Random(0)):
            if disk.digest() not in seen:
                seen.add(disk.digest())
                yield SimulatedFileSystem.after_power_failure(disk)

    assert rekeyed(SimulatedFileSystem(), failed) > 30


@pytest.mark.parametrize("nth", range(0, 60, 3))
def test_a_write_that_fails_while_the_key_is_changed(nth: int) -> None:
    fs = FaultyFileSystem(SimulatedFileSystem(), threads=False)
    store = walkv.open("/s", key=KEY, filesystem=fs)
    store.put(b"k", b"v")
    store.compact()
    store.put(b"l", b"w")
    count = 0

    def strikes(call: Any) -> bool:
        nonlocal count
        count += call.operation in ("write", "create", "rename", "unlink", "truncate")
        return count == nth + 1

    fs.fault = Fault(strikes, errno.ENOSPC)
    with suppress(OSError):
        store.rekey(OTHER)
    fs.heal()
    assert dict(store.scan()) == {b"k": b"v", b"l": b"w"}
    store.put(b"m", b"x")
    store.rekey(OTHER)
    entries = {b"k": b"v", b"l": b"w", b"m": b"x"}
    store.close()
    with walkv.open("/s", key=OTHER, filesystem=fs) as store:
        assert dict(store.scan()) == entries
        assert store.verify().ok


def test_the_same_seed_gives_the_same_disk() -> None:
    disks = []
    for _ in range(2):
        fs = SimulatedFileSystem(seed=7)
        with walkv.open("/s", key=KEY, filesystem=fs) as store:
            store.put(b"k", b"v")
            store.compact()
        disks.append(fs.visible().digest())
    assert disks[0] == disks[1]


def test_what_is_written_again_in_the_same_place_has_another_nonce() -> None:
    """A commit that was taken back, and the next one in its place."""
    sim = SimulatedFileSystem()
    fs = FaultyFileSystem(sim, threads=False)
    store = walkv.open("/s", key=KEY, filesystem=fs)
    written: list[bytes] = []
    path = "/s/log/" + segment.file_name(1)
    for value in (b"first", b"other"):
        fs.fault = Fault(lambda call: call.operation == "write", errno.ENOSPC, short=True)
        with pytest.raises(OSError, match="not written"):
            store.put(b"k", value)
        fs.heal()
    engine = store.engine
    assert isinstance(engine, Engine)
    log = engine.write_log
    original = log._write_file

    def note(data: bytes, offset_bytes: int) -> None:
        written.append(data[44:56])
        if len(written) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(data, offset_bytes)

    log._write_file = note
    for _ in range(2):
        with pytest.raises(OSError, match="not written"):
            store.put(b"k", b"value")
    store.put(b"k", b"value")
    assert len(set(written)) == len(written) >= 3
    assert sim.read_file(path, 1 << 20)[108:120] == written[-1]


def test_copies_and_backups_of_an_encrypted_store_are_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with DatabaseManager(path, key=KEY) as database:
        database.agent.messages.append("s1", role="user", content="told to nobody")
        manager = BackupManager(database, tmp_path / "backups")
        backup = manager.create_backup()
        database.agent.messages.append("s1", role="user", content="after the backup")
        database.close()
        manager.restore_backup(backup)
    for file in (*tmp_path.rglob("*.wal"), *tmp_path.rglob("*.snap")):
        assert b"told to nobody" not in file.read_bytes()
    assert refused(path, EncryptionError, key=None).reason == "missing"
    with walkv.AgentStore(path, key=KEY) as agent:
        assert [m.content for m in agent.messages.history("s1")] == ["told to nobody"]


def test_a_repository_has_a_key_and_does_not_show_it(tmp_path: Path) -> None:
    async def run() -> None:
        config = StoreConfig(str(tmp_path / "s"), key=KEY)
        assert repr(KEY)[2:-1] not in repr(config)
        repository = WalkvRepository(AgentConversation, config=config)
        await repository.add(AgentConversation(title="Plans"))
        await repository.close()

    asyncio.run(run())
    assert refused(tmp_path / "s", EncryptionError, key=None).reason == "missing"


def test_the_newest_data_key_cannot_be_taken_out_of_the_ring(tmp_path: Path) -> None:
    """By somebody who has the old key, and so the old data key, and has seen the manifest of the
    rekey, in which both are wrapped under the new one."""
    path = tmp_path / "s"
    old_key, new_key = os.urandom(32), os.urandom(32)
    fs = OsFileSystem()
    with walkv.open(path, key=old_key) as store:
        store.put(b"a", b"1")
    theirs = Keyring(Secret(old_key), os.urandom)
    old = manifest.read(fs, str(path), theirs)
    shutil.copytree(path, tmp_path / "forged")
    seen: list[Any] = []
    with walkv.open(path, key=old_key) as store:
        engine: Any = store.engine
        replace = engine.catalog.replace_keys

        def spy(changed: Keyring) -> None:
            replace(changed)
            seen.append(changed.ring)

        engine.catalog.replace_keys = spy
        store.rekey(new_key)
    both = seen[0]
    assert len(both.keys) == 2
    ring = dataclasses.replace(both, keys=both.keys[:1])
    theirs.ring = ring
    data = manifest.encode(dataclasses.replace(old, ring=ring), theirs)
    (tmp_path / "forged" / "MANIFEST").write_bytes(data)
    with pytest.raises(walkv.CorruptionError):
        walkv.open(tmp_path / "forged", key=new_key)


def test_a_passphrase_that_is_no_text_is_in_no_error() -> None:
    with pytest.raises(walkv.EncryptionError) as caught:
        Secret("pass\ud800phrase")
    error: BaseException | None = caught.value
    while error is not None:
        assert "phrase" not in repr(getattr(error, "object", ""))
        error = error.__context__


def test_a_rekey_beside_a_close_changes_nothing_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its new keys are made, and then somebody closes the store: another opener may have it."""
    path = tmp_path / "s"
    store = walkv.open(path, key="the old one")
    store.put(b"a", b"1")
    rewrapped = Keyring.rewrapped

    def slowly(self: Keyring, secret: Secret, *, rotate: bool) -> Keyring:
        made = rewrapped(self, secret, rotate=rotate)
        store.close()
        return made

    monkeypatch.setattr(Keyring, "rewrapped", slowly)
    with pytest.raises(walkv.ClosedError):
        store.rekey("the new one")
    with walkv.open(path, key="the old one") as again:
        assert again[b"a"] == b"1"
    with pytest.raises(EncryptionError):
        walkv.open(path, key="the new one")


def test_a_file_that_changes_its_name_keeps_its_key(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with walkv.open(path, key="one", keep_log=walkv.KeepLog()) as store:
        store.put(b"a", b"1")
    assert files.key_numbers(OsFileSystem(), path) == {1}

    class Renaming(OsFileSystem):
        def open(self, path: str, *, writable: bool = False) -> Any:
            if path.endswith(".wal"):
                raise FileNotFoundError(errno.ENOENT, "it has another name by now", path)
            return super().open(path, writable=writable)

    assert files.key_numbers(Renaming(), path) is None, "nobody knows, so no key may go"
