"""Backups of encrypted stores: what takes no key, what takes one, and which one."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_digest, xxh3_128_hexdigest

import walkv
from tests.ops.backup_help import Contents, files, fill, flip, no_syncs, objects
from walkv import EncryptionError, KeepLog, TamperedError
from walkv.engine.keyring import as_text
from walkv.errors import BackupError
from walkv.ops import BackupSchedule, backup, backups, restore, verify_backups
from walkv.ops.backing import listings, restoring
from walkv.ops.backing.places import open_target

__all__ = ["no_syncs"]

KEYS = [bytes([number]) * 32 for number in range(1, 5)]
SMALL = 1 << 16


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WALKV_KEY", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def read(path: Path, key: bytes | str) -> Contents:
    with walkv.open(path, read_only=True, key=key) as store:
        assert store.verify().ok
        return dict(store.scan())


def restored(
    target: Path, path: Path, opens: bytes | str, key: bytes | str | None = None, **wanted: object
) -> Contents:
    """What is in a restored store, which ``opens`` is the key of; it can be written to."""
    report = restore(target, path, key=key, **wanted)  # type: ignore[arg-type]
    assert report.checked == ("checksums" if key is None else "contents")
    found = read(path, opens)
    with walkv.open(path, key=opens) as store:
        store.put(b"and", b"on")
        store.compact()
        assert store.verify().ok
    assert not list(path.parent.glob(".*"))
    shutil.rmtree(path)
    return found


class TestWithoutAKey:
    def test_as_it_was(self, path: Path, target: Path, tmp_path: Path) -> None:
        with walkv.open(path, key=KEYS[0]) as store:
            one = fill(store, 30)
            store.compact()
            one |= fill(store, 10, begin=30)
        first = backup(path, target)
        assert first.checked == "checksums"
        with walkv.open(path, key=KEYS[0]) as store:
            two = fill(store, 10, begin=50)
        second = backup(path, target)
        assert (second.copied_objects, second.skipped_objects) == (1, 2)
        assert restored(target, tmp_path / "r", KEYS[0]) == two[100]
        assert restored(target, tmp_path / "r", KEYS[0], backup=first.name) == one[80]
        report = verify_backups(target)
        assert report.ok
        assert report.sealed == (second.name, first.name)

    def test_an_empty_tail(self, path: Path, target: Path, tmp_path: Path) -> None:
        with walkv.open(path, key=KEYS[0]) as store:
            one = fill(store, 30)
            store.compact()
            backup(path, target)
        assert restored(target, tmp_path / "r", KEYS[0]) == one[60]
        assert restored(target, tmp_path / "r", KEYS[0], KEYS[0]) == one[60]

    def test_another_moment_takes_the_key(self, path: Path, target: Path, tmp_path: Path) -> None:
        with walkv.open(path, key=KEYS[0]) as store:
            one = fill(store, 10)
            backup(path, target)
        for wanted in ({"sequence": 10}, {"time": backups(target)[0].time}):
            with pytest.raises(EncryptionError, match="WALKV_KEY") as caught:
                restore(target, tmp_path / "r", **wanted)  # type: ignore[arg-type]
            assert caught.value.reason == "missing"
            assert sorted(each.name for each in tmp_path.iterdir()) == ["backups", "s"]
        assert restored(target, tmp_path / "r", KEYS[0], KEYS[0], sequence=10) == one[10]

    def test_damage_that_checksums_tell_of(self, path: Path, target: Path) -> None:
        with walkv.open(path, key=KEYS[0]) as store:
            fill(store, 30)
            store.compact()
            fill(store, 10)
        (snapshot,) = (path / "snapshots").iterdir()
        (log,) = (path / "log").iterdir()
        size_bytes = snapshot.stat().st_size
        harms = [
            (snapshot, 20),
            (snapshot, size_bytes - 30),
            (snapshot, size_bytes - 70),
            (log, 99),
        ]
        for file, offset_bytes in harms:
            flip(file, offset_bytes)
            with pytest.raises(walkv.CorruptionError):
                backup(path, target)
            flip(file, offset_bytes)
        # In a page that only the key leads to.
        flip(snapshot, 1000)
        with pytest.raises(walkv.CorruptionError, match="checksum"):
            backup(path, target, key=KEYS[0])
        assert not list(objects(target))

    def test_another_snapshot_in_its_place(self, path: Path, target: Path) -> None:
        with walkv.open(path, key=KEYS[0]) as store:
            fill(store, 30)
            store.compact()
            (first,) = (path / "snapshots").iterdir()
            data = first.read_bytes()
            fill(store, 30)
            store.compact()
        (second,) = (path / "snapshots").iterdir()
        second.write_bytes(data)
        with pytest.raises(walkv.CorruptionError, match="not the one the manifest names"):
            backup(path, target)

    def test_what_a_disk_does_to_a_restore(
        self, path: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with walkv.open(path, key=KEYS[0]) as store:
            fill(store, 30)
            store.compact()
            fill(store, 10)
        backup(path, target)
        real = restoring._Builder._write
        for folder, at in (("log", 100), ("snapshots", -100)):

            def write(
                self: Any, into: str, name: str, chunks: Any, folder: str = folder, at: int = at
            ) -> None:
                real(self, into, name, chunks)
                if into == folder:
                    flip(Path(self._directory, into, name), at)

            monkeypatch.setattr(restoring._Builder, "_write", write)
            with pytest.raises(walkv.CorruptionError):
                restore(target, tmp_path / "r")
            assert not (tmp_path / "r").exists()

    def test_nothing_of_it_is_ever_in_the_clear(
        self, path: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither in the target nor in a temporary file, in which piece whatever."""
        seen: list[bytes] = []
        real = os.pwrite

        def pwrite(descriptor: int, data: bytes, offset: int) -> int:
            seen.append(bytes(data))
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        secrets = [b"a-value-nobody-may-see", b"a-key-nobody-may-see"]
        with walkv.open(path, key="a passphrase") as store:
            for number in range(50):
                store.put(b"%s/%d" % (secrets[1], number), secrets[0])
            store.compact()
            store.put(secrets[1], secrets[0])
            backup(store, target)
            store.put(secrets[1] + b"2", secrets[0])
            backup(store, target)
            sequence = store.last_sequence - 1
        for key in (None, "a passphrase"):
            verify_backups(target, key=key)
        restore(target, tmp_path / "r", key="a passphrase", sequence=sequence)
        written = b"".join(seen)
        assert b"WALKVSNP" in written, "what is written is seen"
        for each in (*secrets, b"a passphrase"):
            assert each not in written
            for folder in (target, tmp_path / "r"):
                assert not [name for name, data in files(folder).items() if each in data]


class TestWithAKey:
    def test_from_the_store_the_call_and_the_environment(
        self, path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with walkv.AgentStore(path, key=KEYS[0]) as agent:
            agent.sessions.create("s1", user_id="ada")
            assert backup(agent, target).checked == "contents"
            assert backup(agent.store, target).checked == "contents"
        assert backup(path, target).checked == "checksums"
        assert backup(path, target, key=KEYS[0]).checked == "contents"
        monkeypatch.setenv("WALKV_KEY", as_text(KEYS[0]))
        assert backup(path, target).checked == "contents"
        assert verify_backups(target).sealed == ()

    def test_the_wrong_one(self, path: Path, target: Path, tmp_path: Path) -> None:
        with walkv.open(path, key=KEYS[0]) as store:
            fill(store, 3)
        with pytest.raises(EncryptionError) as caught:
            backup(path, target, key=KEYS[1])
        assert caught.value.reason == "wrong"
        assert not target.exists()
        backup(path, target)
        for wanted in ({}, {"sequence": 2}):
            with pytest.raises(EncryptionError, match="another key") as caught:
                restore(target, tmp_path / "r", key=KEYS[1], **wanted)
            assert caught.value.reason == "wrong"
        with pytest.raises(EncryptionError, match="another key"):
            verify_backups(target, key=KEYS[1])

    def test_for_a_store_that_is_not_encrypted(
        self, path: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with walkv.open(path) as store:
            fill(store, 3)
        monkeypatch.setenv("WALKV_KEY", as_text(KEYS[0]))
        assert backup(path, target).checked == "contents"
        assert restore(target, tmp_path / "r", sequence=4).checked == "contents"
        assert verify_backups(target).sealed == ()
        for action in (
            lambda: backup(path, target, key=KEYS[0]),
            lambda: restore(target, tmp_path / "q", key=KEYS[0]),
            lambda: verify_backups(target, key=KEYS[0]),
        ):
            with pytest.raises(EncryptionError) as caught:
                action()
            assert caught.value.reason == "not-encrypted"

    def test_what_was_changed_with_the_right_checksum(
        self, path: Path, target: Path, tmp_path: Path
    ) -> None:
        """Two frames of the same store, each in its place, and one was never sealed there."""
        with walkv.open(path, key=KEYS[0]) as store:
            fill(store, 3)
            forged = _forge(path)
        (log,) = (path / "log").iterdir()
        log.write_bytes(forged)
        assert backup(path, target).checked == "checksums"
        assert verify_backups(target).ok
        (problem,) = verify_backups(target, key=KEYS[0]).problems
        assert isinstance(problem.error, TamperedError)
        for wanted in ({}, {"sequence": 4}):
            with pytest.raises(TamperedError):
                restore(target, tmp_path / "r", key=KEYS[0], **wanted)
        with pytest.raises(TamperedError):
            backup(path, tmp_path / "elsewhere", key=KEYS[0])

    def test_what_several_name_is_read_with_the_key_of_one(self, path: Path, target: Path) -> None:
        """The newest backup is under another key, and would let this pass."""
        with walkv.open(path, key=KEYS[0]) as store:
            fill(store, 5)
            first = backup(store, target).name
            store.rekey(KEYS[1], rotate=False)
            second = backup(store, target).name
        data = _forge(path)
        for name in (first, second):
            listing = listings.read(open_target(target), name)
            (part,) = listing.segments
            piece = part.pieces[0]
            forged = data[: piece.end]
            pieces = (dataclasses.replace(piece, hash=xxh3_128_hexdigest(forged)), *part.pieces[1:])
            segments = (dataclasses.replace(part, pieces=pieces),)
            (target / "backups" / f"{name}.json").write_bytes(
                listings.encode(dataclasses.replace(listing, segments=segments))
            )
            (target / "objects" / piece.object).write_bytes(forged)
        assert verify_backups(target).ok
        for key in KEYS[:2]:
            (problem,) = verify_backups(target, key=key).problems
            assert isinstance(problem.error, TamperedError)
            assert set(problem.backups) == {first, second}

    def test_a_manifest_that_goes_on_was_written_with_the_stores_keys(
        self, path: Path, target: Path, tmp_path: Path
    ) -> None:
        """Of a backup that the key does not open itself: its data key is in another one."""
        with walkv.open(path, key=KEYS[0], keep_log=KeepLog()) as store:
            fill(store, 10)
            store.compact()
            first = backup(store, target)
            moments = fill(store, 10)
            store.rekey(KEYS[1], rotate=False)
            store.compact()
            backup(store, target)
        sequence = first.sequence + 4
        found = restored(target, tmp_path / "r", KEYS[1], KEYS[1], sequence=sequence)
        assert found == moments[sequence]
        listing = listings.read(open_target(target), first.name)
        head, payload = listing.manifest[:16], bytearray(listing.manifest[24:])
        payload[-1] ^= 1
        forged = head + xxh3_64_digest(head + payload) + payload
        (target / "backups" / f"{first.name}.json").write_bytes(
            listings.encode(dataclasses.replace(listing, manifest=forged))
        )
        with pytest.raises(TamperedError):
            restore(target, tmp_path / "r", key=KEYS[1], sequence=sequence)

    def test_a_schedule_has_the_key_of_the_store(self, path: Path, target: Path) -> None:
        with walkv.AgentStore(path, key=KEYS[0]) as agent:
            agent.sessions.create("s1", user_id="ada")
            schedule = agent.schedule_backups(target, every_seconds=0.01)
            _wait_for(schedule, 1)
            agent.store.rekey(KEYS[1])
            _wait_for(schedule, len(backups(target)) + 2)
            assert schedule.last_error is None
            assert schedule.last_report is not None
            assert schedule.last_report.checked == "contents"


def _forge(path: Path) -> bytes:
    """A segment whose second frame has another payload, and the checksum that belongs to it."""
    from walkv.engine import frame, segment
    from walkv.engine.vfs import OsFileSystem

    (log,) = (path / "log").iterdir()
    file = OsFileSystem().open(str(log))
    header = segment.peek_header(file)
    frames = list(segment.Scanner(file, header, None).frames())
    data = log.read_bytes()
    found = frames[1]
    start = frames[0].end_offset
    made = frame.encode(
        found.payload[:-1] + bytes([found.payload[-1] ^ 1]),
        salt=header.salt,
        offset=start,
        operation_count=found.operation_count,
        first_sequence=found.first_sequence,
        time_ns=found.time_ns,
        synced_offset=found.synced_offset,
    )
    file.close()
    return data[:start] + made + data[start + len(made) :]


def _wait_for(schedule: BackupSchedule, count: int) -> None:
    while True:
        try:
            if len(backups(schedule.target)) >= count:
                return
        except FileNotFoundError:
            pass
        assert schedule.running
        assert schedule.last_error is None


class TestAfterARekey:
    def test_of_the_users_key_alone(self, path: Path, target: Path, tmp_path: Path) -> None:
        """Data is under the same key: each moment opens with the key that is given."""
        with walkv.open(path, key=KEYS[0], memtable_bytes=SMALL, keep_log=KeepLog()) as store:
            moments = fill(store, 60, size_bytes=400)
            first = backup(store, target)
            store.rekey(KEYS[1], rotate=False)
            moments |= fill(store, 10, begin=60)
            second = backup(store, target)
        assert second.skipped_objects > 0
        newest = max(moments)
        assert restored(target, tmp_path / "r", KEYS[1]) == moments[newest]
        assert restored(target, tmp_path / "r", KEYS[1], KEYS[1]) == moments[newest]
        for key in (None, KEYS[0]):
            found = restored(target, tmp_path / "r", KEYS[0], key, backup=first.name)
            assert found == moments[first.sequence]
        for sequence in sorted(moments)[::20]:
            for key in KEYS[:2]:
                found = restored(target, tmp_path / "r", key, key, sequence=sequence)
                assert found == moments[sequence]
        assert verify_backups(target, key=KEYS[1]).sealed == (first.name,)
        assert verify_backups(target, key=KEYS[0]).sealed == (second.name,)

    @pytest.mark.parametrize("keys", [KEYS, ["one", "two", "three", "four"]])
    def test_of_the_data_key_too(
        self, path: Path, target: Path, tmp_path: Path, keys: list[bytes] | list[str]
    ) -> None:
        with walkv.open(path, key=keys[0], memtable_bytes=SMALL, keep_log=KeepLog()) as store:
            moments = fill(store, 60, size_bytes=400)
            first = backup(store, target)
            moments |= fill(store, 20, begin=60)
            store.rekey(keys[1])
            moments |= fill(store, 20, begin=80)
            second = backup(store, target)
        for key in (None, keys[0]):
            found = restored(target, tmp_path / "r", keys[0], key, backup=first.name)
            assert found == moments[first.sequence]
        for key in (None, keys[1]):
            assert restored(target, tmp_path / "r", keys[1], key) == moments[second.sequence]
        # The kept log is under the old data key, and the ring of the newest backup still has it.
        for sequence in sorted(moments)[:: 30 if keys is KEYS else 60]:
            found = restored(target, tmp_path / "r", keys[1], keys[1], sequence=sequence)
            assert found == moments[sequence]
        # With the key from before, as far as that leads.
        before = min(each for each in moments if each > first.sequence)
        found = restored(target, tmp_path / "r", keys[0], keys[0], sequence=first.sequence)
        assert found == moments[first.sequence]
        found = restored(target, tmp_path / "r", keys[0], keys[0], sequence=before)
        assert found == moments[before]
        with pytest.raises(EncryptionError, match=second.name) as caught:
            restore(target, tmp_path / "r", key=keys[0], sequence=max(moments))
        assert caught.value.reason == "wrong"
        report = verify_backups(target, key=keys[1])
        assert report.ok
        assert report.sealed == (first.name,)

    def test_a_data_key_that_left_the_ring_long_ago(
        self, path: Path, target: Path, tmp_path: Path
    ) -> None:
        """Files of one moment are under keys that no single ring has."""
        options = {"memtable_bytes": SMALL, "keep_log": KeepLog()}
        moments: dict[int, Contents] = {}
        for number, key in enumerate(KEYS[:3]):
            with walkv.open(path, key=key, **options) as store:  # type: ignore[arg-type]
                moments |= fill(store, 40, begin=40 * number)
                backup(store, target)
                if number < 2:
                    # Kept segments from before are gone by the next rotation.
                    for kept in (path / "log").glob("*.kept"):
                        if number:
                            kept.unlink()
                    store.rekey(KEYS[number + 1])
        newest, middle, oldest = (each.name for each in backups(target))
        early = sorted(moments)[10]
        # The plan for it begins with the oldest backup, or the log from the beginning.
        assert restored(target, tmp_path / "r", KEYS[0], KEYS[0], sequence=early) == moments[early]
        assert restored(target, tmp_path / "r", KEYS[1], KEYS[1], sequence=early) == moments[early]
        with pytest.raises(EncryptionError) as caught:
            restore(target, tmp_path / "r", key=KEYS[2], sequence=early)
        assert caught.value.reason == "wrong"
        assert any(name in str(caught.value) for name in (oldest, middle))
        late = max(moments)
        assert restored(target, tmp_path / "r", KEYS[2], KEYS[2], sequence=late) == moments[late]
        assert newest not in verify_backups(target, key=KEYS[2]).sealed

    def test_rings_are_put_together(self, path: Path, target: Path, tmp_path: Path) -> None:
        """The user's key is the same, the data keys are not, and each ring has another one."""
        with walkv.open(path, key=KEYS[0]) as store:
            moments = fill(store, 10)
            backup(store, target)
        with walkv.open(path, key=KEYS[0], keep_log=KeepLog()) as store:
            moments |= fill(store, 10, begin=10)
            store.rekey(KEYS[0])
            moments |= fill(store, 10, begin=20)
            backup(store, target)
            store.compact()
            store.rekey(KEYS[0])
            for kept in sorted((path / "log").glob("*.kept"))[:1]:
                kept.unlink()
            store.rekey(KEYS[0])
            moments |= fill(store, 10, begin=30)
            backup(store, target)
        for sequence in sorted(moments)[::3]:
            found = restored(target, tmp_path / "r", KEYS[0], KEYS[0], sequence=sequence)
            assert found == moments[sequence]
        assert verify_backups(target, key=KEYS[0]).sealed == ()

    def test_two_histories_with_data_keys_of_their_own(
        self, path: Path, target: Path, tmp_path: Path
    ) -> None:
        """Both call theirs the second one."""
        other = tmp_path / "t"
        with walkv.open(path, key=KEYS[0], keep_log=KeepLog()) as store:
            one = fill(store, 10)
            backup(store, target)
        restore(target, other)
        two = dict(one)
        names = []
        for place, moments in ((path, one), (other, two)):
            with walkv.open(place, key=KEYS[0]) as store:
                moments |= fill(store, 5, begin=100)
                store.rekey(KEYS[0])
                moments |= fill(store, 5, begin=200)
                names.append(backup(store, target).name)
        for sequence in sorted(two)[::3]:
            found = restored(target, tmp_path / "r", KEYS[0], KEYS[0], sequence=sequence)
            assert found == two[sequence]
        for sequence in sorted(one)[::3]:
            found = restored(
                target, tmp_path / "r", KEYS[0], KEYS[0], backup=names[0], sequence=sequence
            )
            assert found == one[sequence]


def test_a_damaged_kept_segment_is_told_in_a_warning(
    path: Path, target: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with walkv.open(path, key=KEYS[0], keep_log=KeepLog()) as store:
        for _ in range(3):
            fill(store, 10)
            store.compact()
        moments = fill(store, 10)
        middle = sorted((path / "log").glob("*.kept"))[1]
        flip(middle, 100)
        with caplog.at_level(logging.WARNING, "walkv"):
            report = backup(store, target)
    (warning,) = report.warnings
    assert str(middle) in warning
    assert str(middle) in caplog.text
    assert restored(target, tmp_path / "r", KEYS[0], KEYS[0]) == moments[max(moments)]
    with pytest.raises(BackupError):
        restore(target, tmp_path / "r", key=KEYS[0], sequence=5)
