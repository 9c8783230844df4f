"""Read-only openers: they follow a live writer, and change nothing at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hooked import HookedFileSystem, contents, listing

import walkv


def test_follows_commits_flush_merge_and_reopening(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = walkv.open(path)
    with walkv.open(path, read_only=True) as reader:
        assert reader.stats().read_only
        assert list(reader.scan()) == []
        steps: list[Callable[[], object]] = [
            lambda: writer.put(b"a", b"1"),
            lambda: writer.put(b"b", b"x" * 300_000),
            lambda: writer.delete_range(b"a"),
            lambda: writer.put(b"c", b"1", ttl_seconds=1e6),
            writer.compact,
            lambda: writer.put(b"d", b"1"),
            lambda: writer.delete(b"b"),
            writer.compact,
            writer.compact,
            lambda: writer.put(b"e", b"1", sync=walkv.WriteBack()),
        ]
        for number, step in enumerate(steps):
            step()
            before = writer.stats().last_sequence
            reader.refresh()
            assert dict(reader.scan()) == dict(writer.scan()), number
            assert all(reader.get(key) == writer.get(key) for key in (b"a", b"b", b"c", b"d"))
            assert reader.get_versioned(b"d") == writer.get_versioned(b"d")
            assert reader.stats().last_sequence == before
            assert not reader.refresh()
        writer.close()
        reader.refresh()
        with walkv.open(path) as writer:
            writer.put(b"f", b"1")
            assert reader.refresh()
            assert reader.get(b"f") == b"1"


def test_refresh_says_whether_there_was_anything(tmp_path: Path) -> None:
    with (
        walkv.open(tmp_path / "s") as writer,
        walkv.open(tmp_path / "s", read_only=True) as reader,
    ):
        assert not reader.refresh()
        writer.put(b"a", b"1")
        assert reader.get(b"a") is None  # until it is asked to look
        assert reader.refresh()
        assert reader.get(b"a") == b"1"
        assert not reader.refresh()
        assert not writer.refresh()


@pytest.mark.parametrize("torn", [False, True])
def test_writes_nothing(tmp_path: Path, torn: bool) -> None:
    path = tmp_path / "s"
    with walkv.open(tmp_path / "made") as store:
        for number in range(500):
            store.put(b"%03d" % number, b"x" * 50, sync=walkv.WriteBack())
        store.compact()
        store.put(b"tail", b"1")
        shutil.copytree(tmp_path / "made", path)
    if torn:
        tail = max((path / "log").iterdir())
        tail.write_bytes(tail.read_bytes() + b"torn")
        (path / "MANIFEST.tmp").write_bytes(b"left over")
        (path / "LOCK").unlink()
    before = listing(path)
    fs = HookedFileSystem()
    with walkv.open(path, read_only=True, filesystem=fs) as reader:
        assert reader.count() == 501
        assert reader.get(b"007") == b"x" * 50
        reader.refresh()
        assert reader.verify().ok
        reader.stats()
        with reader.view() as view:
            assert view.count() == 501
    assert {operation for operation, _ in fs.calls} == {"open"}
    assert listing(path) == before


def test_every_write_is_refused(tmp_path: Path) -> None:
    walkv.open(tmp_path / "s").close()
    before = contents(tmp_path / "s")
    with walkv.open(tmp_path / "s", read_only=True) as reader:
        calls: list[Callable[[], object]] = [
            lambda: reader.put(b"k", b"v"),
            lambda: reader.put(b"k", b"v", expected=None),
            lambda: reader.delete(b"k"),
            lambda: reader.delete_range(b"k"),
            reader.batch,
            reader.transaction,
            lambda: reader.transact(lambda tx: None),
            reader.sync,
            reader.compact,
        ]
        for call in calls:
            with pytest.raises(walkv.ReadOnlyError, match="read_only"):
                call()
        with pytest.raises(walkv.ReadOnlyError):
            reader[b"k"] = b"v"
        with pytest.raises(walkv.ReadOnlyError):
            del reader[b"k"]
    assert contents(tmp_path / "s") == before


def test_many_readers_and_a_writer(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as writer:
        readers = [walkv.open(tmp_path / "s", read_only=True) for _ in range(5)]
        writer.put(b"a", b"1")
        for reader in readers:
            reader.refresh()
            assert reader.get(b"a") == b"1"
            reader.close()
            reader.close()
            with pytest.raises(walkv.ClosedError):
                reader.get(b"a")
            with pytest.raises(walkv.ClosedError):
                reader.refresh()
            with pytest.raises(walkv.ClosedError):
                reader.put(b"a", b"1")


def test_views_and_scans_keep_their_moment_through_refreshes(tmp_path: Path) -> None:
    with (
        walkv.open(tmp_path / "s") as writer,
        walkv.open(tmp_path / "s", read_only=True) as reader,
    ):
        for number in range(1000):
            writer.put(b"%04d" % number, b"1", sync=walkv.WriteBack())
        reader.refresh()
        view, scan = reader.view(), reader.scan()
        next(scan)
        for step in range(3):
            writer.put(b"0000", b"changed %d" % step)
            writer.put(b"0500", b"changed %d" % step)
            writer.delete_range(b"07")
            writer.put(b"new", b"1")
            if step == 1:
                writer.compact()
            reader.refresh()
            assert reader.get(b"0500") == b"changed %d" % step
            assert view.get(b"0500") == b"1"
            assert view.count() == 1000
            assert reader.count() == 901
        assert len(list(scan)) == 999
        view.close()


def test_a_commit_that_was_taken_back_is_not_followed(tmp_path: Path) -> None:
    with (
        walkv.open(tmp_path / "s") as writer,
        walkv.open(tmp_path / "s", read_only=True) as reader,
    ):
        writer.put(b"a", b"1")
        # As a writer does whose publishing is interrupted after the write: the frame is whole.
        log = writer.engine.write_log  # type: ignore[union-attr]  # a writer
        log.write(b"\x92\xc4\x05ghost\xc4\x01x", 1, 2)
        reader.refresh()
        log.undo()
        writer.put(b"b", b"2")
        writer.put(b"c", b"2")
        reader.refresh()
        assert dict(reader.scan()) == dict(writer.scan())


def test_a_reader_beside_a_busy_writer_sees_only_prefixes(tmp_path: Path) -> None:
    """The writer keeps ``first`` ahead of ``second`` by one batch; no reader may see otherwise."""
    path = tmp_path / "s"
    stop, begun = threading.Event(), threading.Event()
    with walkv.open(path, memtable_bytes=1 << 18, sync=walkv.WriteBack()) as writer:
        writer.put(b"n/0", b"0")

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                with writer.batch() as batch:
                    batch.put(b"n/0", b"%d" % number)
                    batch.put(b"n/1", b"%d" % number)
                    batch.put(b"pad/%d" % (number % 50), os.urandom(200))
                begun.set()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            assert begun.wait(60)
            with walkv.open(path, read_only=True) as reader:
                last = 0
                for _ in range(300):
                    reader.refresh()
                    one, two = reader.get_many([b"n/0", b"n/1"])
                    assert one is not None
                    assert two is None or one == two
                    assert int(one) >= last
                    last = int(one)
        finally:
            stop.set()
            thread.join()
        assert last > 0


def test_opening_while_the_writer_recovers_or_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        walkv.open(tmp_path / "s", read_only=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").write_bytes(b"")
    with pytest.raises(walkv.FormatError):
        walkv.open(tmp_path / "foreign", read_only=True)
    assert os.listdir(tmp_path / "foreign") == ["x"]
