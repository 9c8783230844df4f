from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import walkv
from tests.ops.backup_help import contents, files, fill, flip, no_syncs
from tests.support.processes import start
from walkv import EncryptionError, KeepLog
from walkv.engine import keep, manifest
from walkv.engine.keyring import as_text
from walkv.engine.vfs import OsFileSystem
from walkv.ops import copy

__all__ = ["no_syncs"]

KEY, OTHER = b"k" * 32, b"o" * 32


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WALKV_KEY", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with something in the log, in snapshots, deleted and expiring."""
    with walkv.open(tmp_path / "s", keep_log=KeepLog(3600, 1 << 20)) as store:
        fill(store, 30)
        store.compact()
        fill(store, 10, begin=30)
        store.put(b"expiring", b"1", ttl_seconds=1000)
        store.put(b"deleted", b"2")
        store.delete(b"deleted")
    return tmp_path / "s"


def expiries(path: Path, key: bytes | None = None) -> dict[bytes, object]:
    with walkv.open(path, read_only=True, key=key) as store:
        assert store.verify().ok
        point = store.engine.pin()
        found: dict[bytes, object] = {}
        for keys, items, _ in point.chunks(b"", None):
            found.update(zip(keys, items, strict=True))
        return found


def is_encrypted(path: Path) -> bool:
    return manifest.look(OsFileSystem(), str(path)).ring is not None


class TestKeys:
    def test_encrypted_and_decrypted_again(self, path: Path, tmp_path: Path) -> None:
        """Each step has the same entries, with their expiry, and nothing in the clear."""
        before, expected = files(path), {k: v for k, v in expiries(path).items() if v is not None}
        report = copy(path, tmp_path / "a", new_key=KEY)
        assert (report.encrypted, report.entry_count) == (True, len(expected))
        assert is_encrypted(tmp_path / "a")
        assert expiries(tmp_path / "a", KEY) == expected
        assert not [data for data in files(tmp_path / "a").values() if b"expiring" in data]
        same = copy(tmp_path / "a", tmp_path / "b", key=KEY)
        assert same.encrypted
        assert expiries(tmp_path / "b", KEY) == expected
        copy(tmp_path / "b", tmp_path / "c", key=KEY, new_key="a passphrase")
        with pytest.raises(EncryptionError):
            expiries(tmp_path / "c", KEY)
        report = copy(tmp_path / "c", tmp_path / "d", key="a passphrase", plain=True)
        assert not report.encrypted
        assert expiries(tmp_path / "d") == expected
        assert files(path) == before
        assert not list(tmp_path.glob(".*"))

    def test_of_a_store_that_is_open(self, tmp_path: Path) -> None:
        with walkv.AgentStore(tmp_path / "s", key=KEY) as agent:
            agent.sessions.create("s1", user_id="ada")
            for number, source in enumerate((agent, agent.store)):
                assert copy(source, tmp_path / str(number)).encrypted
        with walkv.AgentStore(tmp_path / "1", key=KEY) as agent:
            assert agent.sessions.get("s1").user_id == "ada"

    def test_the_environment_opens_the_source_alone(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy(path, tmp_path / "encrypted", new_key=KEY)
        monkeypatch.setenv("WALKV_KEY", as_text(KEY))
        copy(tmp_path / "encrypted", tmp_path / "same")
        copy(tmp_path / "encrypted", tmp_path / "plain", plain=True)
        # And what was not encrypted does not become so by the way.
        copy(path, tmp_path / "as-it-was")
        copy(path, tmp_path / "other", new_key=OTHER)
        monkeypatch.delenv("WALKV_KEY")
        found = [is_encrypted(tmp_path / n) for n in ("same", "plain", "as-it-was", "other")]
        assert found == [True, False, False, True]

    def test_wrong_ones(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not both"):
            copy(path, tmp_path / "r", new_key=KEY, plain=True)
        with pytest.raises(EncryptionError) as caught:
            copy(path, tmp_path / "r", key=KEY)
        assert caught.value.reason == "not-encrypted"
        with pytest.raises(EncryptionError, match="32"):
            copy(path, tmp_path / "r", new_key=b"short")
        copy(path, tmp_path / "e", new_key=KEY)
        for key, reason in ((None, "missing"), (OTHER, "wrong")):
            with pytest.raises(EncryptionError) as caught:
                copy(tmp_path / "e", tmp_path / "r", key=key)
            assert caught.value.reason == reason
        assert sorted(each.name for each in tmp_path.iterdir()) == ["e", "s"]


class TestTheCopy:
    def test_sequences_begin_anew_and_the_log_is_kept_from_then_on(
        self, path: Path, tmp_path: Path
    ) -> None:
        report = copy(path, tmp_path / "c")
        assert report.sequence == 83
        setting = keep.read_setting(OsFileSystem(), str(tmp_path / "c" / "log"))
        assert setting == KeepLog(3600, 1 << 20)
        with walkv.open(tmp_path / "c") as store:
            assert store.stats().kept_bytes == 0
            assert store.last_sequence == report.entry_count
            fill(store, 5)
            store.compact()
            assert store.stats().kept_bytes > 0

    def test_one_that_keeps_no_log(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            fill(store, 5)
        copy(tmp_path / "s", tmp_path / "c")
        assert not (tmp_path / "c" / "log" / "KEEP").exists()

    def test_what_was_deleted_is_not_in_it(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s") as store:
            for number in range(100):
                store.put(b"%d" % number, os.urandom(10_000))
            store.delete_range(prefix=b"")
            store.put(b"k", b"v")
        report = copy(tmp_path / "s", tmp_path / "c")
        assert report.entry_count == 1
        assert report.size_bytes < 10_000
        assert contents(tmp_path / "c") == {b"k": b"v"}

    def test_an_empty_one(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s"):
            pass
        assert copy(tmp_path / "s", tmp_path / "c").entry_count == 0
        assert contents(tmp_path / "c") == {}

    def test_is_a_moment_while_others_write(self, tmp_path: Path) -> None:
        with walkv.open(tmp_path / "s", memtable_bytes=1 << 16) as store:
            stopped = threading.Event()

            def write() -> None:
                number = 0
                while not stopped.is_set():
                    with store.batch() as batch:
                        for key in (b"a", b"m%d" % (number % 50), b"z"):
                            batch.put(key, b"%d" % number)
                    number += 1

            thread = threading.Thread(target=write)
            thread.start()
            try:
                for number in range(5):
                    copy(store, tmp_path / f"open{number}")
                    copy(store.path, tmp_path / f"path{number}")
            finally:
                stopped.set()
                thread.join()
        for number in range(5):
            for name in ("open", "path"):
                found = contents(tmp_path / f"{name}{number}")
                assert found.get(b"a") == found.get(b"z")

    def test_progress(self, path: Path, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        copy(path, tmp_path / "c", progress=lambda done, total: seen.append((done, total)))
        assert seen == sorted(seen)
        assert 0 < seen[-1][0] <= seen[-1][1]


class TestRefusals:
    def test_the_target(self, path: Path, tmp_path: Path) -> None:
        before = files(path)
        (tmp_path / "file").write_text("x")
        for target in (path, tmp_path / "file"):
            with pytest.raises(FileExistsError, match="something here already"):
                copy(path, target)
        with pytest.raises(OSError, match="inside of the store"):
            copy(path, path / "copy")
        assert files(path) == before
        (tmp_path / "empty").mkdir()
        for target in (tmp_path / "empty", tmp_path / "a" / "b"):
            copy(path, target)
            assert contents(target) == contents(path)

    def test_the_source(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            copy(tmp_path / "none", tmp_path / "r")
        (snapshot,) = (path / "snapshots").iterdir()
        flip(snapshot, 100)
        with pytest.raises(walkv.CorruptionError):
            copy(path, tmp_path / "r")
        assert sorted(each.name for each in tmp_path.iterdir()) == ["s"]

    def test_two_at_once(self, path: Path, tmp_path: Path) -> None:
        def again(done: int, total: int) -> None:
            with pytest.raises(walkv.LockedError, match="copying to the same path"):
                copy(path, tmp_path / "r")

        copy(path, tmp_path / "r", progress=again)
        assert contents(tmp_path / "r") == contents(path)

    def test_given_up(self, path: Path, tmp_path: Path) -> None:
        def give_up(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            copy(path, tmp_path / "r", progress=give_up)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["s"]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """There is nothing at the target, or all of it; and the next copy gets through."""
    with walkv.open(tmp_path / "s") as store:
        fill(store, 200, size_bytes=5_000)
        for number in range(2_000):
            store.put(b"more/%04d" % number, os.urandom(500), sync=walkv.WriteBack())
        store.compact()
    before = files(tmp_path / "s")
    expected = contents(tmp_path / "s")
    calls: list[int] = []
    copy(tmp_path / "s", tmp_path / "first", progress=lambda done, _: calls.append(done))
    random.seed(os.getpid())
    killed = 0
    for number in range(6):
        target = tmp_path / str(number)
        # By how often it was called, or by the time; in the end of it, too.
        at = random.randrange(len(calls) + 1)
        child = start(
            f"""
            import os, signal
            from walkv.ops import copy

            left = {at}

            def progress(done, total):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            copy({str(tmp_path / "s")!r}, {str(target)!r}, new_key={KEY!r}, progress=progress)
            """
        )
        child.communicate()
        assert child.returncode in (0, -signal.SIGKILL)
        assert target.exists() == (child.returncode == 0)
        if child.returncode:
            killed += 1
            assert (tmp_path / f".{number}.copying").exists()
            copy(tmp_path / "s", target, new_key=KEY)
        with walkv.open(target, read_only=True, key=KEY) as found:
            assert dict(found.scan()) == expected
        assert not list(tmp_path.glob(".*"))
    assert killed
    assert files(tmp_path / "s") == before


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


def test_a_full_disk(tmp_path: Path, small: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        fill(store, 200, size_bytes=20_000)
    with pytest.raises((OSError, walkv.WalkvError)):
        copy(tmp_path / "s", small / "c")
    assert list(small.iterdir()) == []
