"""Flushes and merges: when, what is dropped, what is copied, and that space comes back."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hooked import HookedFileSystem, fail

import walkv
from walkv import limits
from walkv.engine.core import Engine
from walkv.engine.picking import pick
from walkv.engine.snapshot import SnapshotWriter
from walkv.engine.vfs import OsFile
from walkv.testing import Fault, FaultyFileSystem


def engine_of(store: walkv.Store) -> Engine:
    engine = store.engine
    assert isinstance(engine, Engine)
    return engine


def inline(path: Path, **options: Any) -> walkv.Store:
    """A store whose background work is done at the same points every time."""
    options.setdefault("memtable_bytes", limits.MIN_MEMTABLE_BYTES)
    fs = HookedFileSystem(threads=False)
    return walkv.open(path, filesystem=fs, sync=walkv.WriteBack(), **options)


def flush(store: walkv.Store) -> None:
    """Fill the memtable with one key, so that it is written out; that key comes back deleted."""
    before = store.stats().flush_count
    while store.stats().flush_count == before:
        store.put(b"~", b"x" * 100)


def summaries(store: walkv.Store) -> list[tuple[int, int]]:
    """Entries and tombstones of each snapshot, newest first."""
    found = engine_of(store).catalog.sources.snapshots
    return [(each.summary.entry_count, each.summary.tombstone_count) for each in found]


@pytest.mark.parametrize(
    ("sizes", "entries", "dead", "expected"),
    [
        ([], 0, 0, 0),
        ([100], 10, 0, 0),
        ([100], 100, 30, 0),
        ([100], 100, 31, 1),
        ([1, 1000], 100, 31, 2),
        ([1, 1000], 100, 0, 0),
        ([500, 1000], 100, 0, 0),
        ([10, 10, 10], 100, 0, 0),
        ([10, 10, 10, 10], 100, 0, 4),
        ([10, 10, 10, 100_000], 100, 0, 0),
        ([10, 10, 10, 10, 100_000], 100, 0, 4),
        ([10, 10, 10, 10, 10, 100_000], 100, 0, 5),
        ([10, 11, 10, 10, 10, 100_000], 100, 0, 5),
        ([10, 10, 10, 31, 100_000], 100, 0, 0),
        ([1, 1000, 1, 1000, 1, 5000], 100, 0, 5),
        ([10, 10, 20, 40, 100_000], 100, 0, 4),
        ([10, 10, 20, 41, 100_000], 100, 0, 0),
        ([1000, 1, 1, 1], 100, 0, 4),
    ],
)
def test_pick(sizes: list[int], entries: int, dead: int, expected: int) -> None:
    assert pick(sizes, entries, dead) == expected


def test_pick_bounds_the_number_of_snapshots() -> None:
    """Whatever is flushed, repeated picking keeps snapshots few: their sizes grow."""
    rng = random.Random(1)
    for _ in range(20):
        sizes: list[int] = []
        for _ in range(500):
            sizes.insert(0, rng.choice((1, 10, 100, 1000)) * rng.randrange(1, 10))
            while count := pick(sizes, 100, 0):
                sizes[:count] = [sum(sizes[:count])]
            assert len(sizes) < limits.MAX_SNAPSHOTS / 2


def test_a_flush_at_the_bottom_drops_what_deletes_nothing(tmp_path: Path) -> None:
    with inline(tmp_path / "s") as store:
        store.put(b"a", b"1")
        store.put(b"b", b"1")
        store.delete(b"a")
        store.delete(b"never was")
        store.delete_range(b"c")
        store.compact()
        assert summaries(store) == [(1, 0)]
        assert not engine_of(store).catalog.sources.snapshots[0].ranges


def test_flushing_nothing_but_deletes_of_nothing_leaves_no_file(tmp_path: Path) -> None:
    with inline(tmp_path / "s") as store:
        store.put(b"a", b"1")
        store.delete(b"a")
        store.delete_range(b"b")
        store.compact()
        assert summaries(store) == []
        assert os.listdir(tmp_path / "s" / "snapshots") == []
    with walkv.open(tmp_path / "s") as store:
        assert list(store.scan()) == []


def test_tombstones_and_ranges_stay_until_the_bottom(tmp_path: Path) -> None:
    with inline(tmp_path / "s") as store:
        for number in range(3000):
            store.put(b"%05d" % number, os.urandom(60))
        store.compact()
        store.delete(b"00001")
        store.delete_range(start=b"00010", stop=b"00020")
        store.put(b"00015", b"back")
        store.put(b"00002", b"short-lived", ttl_seconds=5)
        flush(store)
        newest = engine_of(store).catalog.sources.snapshots[0]
        assert len(summaries(store)) == 2
        assert list(newest.ranges) == [(b"00010", b"00020")]
        assert newest.find(b"00001") is not None  # a tombstone, which hides the older entry
        engine_of(store).fs.advance(10)  # type: ignore[attr-defined]  # hooked

        def check() -> None:
            assert store.get(b"00001") is None
            assert store.get(b"00002") is None  # and not what the older snapshot has
            assert store.get(b"00012") is None
            assert store.get(b"00015") == b"back"
            assert store.count(stop=b"~") == 3000 - 1 - 1 - 9

        check()
        store.compact()
        check()
        assert summaries(store) == [(3000 - 1 - 1 - 9 + 1, 0)]
        assert not engine_of(store).catalog.sources.snapshots[0].ranges
    with walkv.open(tmp_path / "s") as store:
        assert store.count(stop=b"~") == 3000 - 1 - 1 - 9


def test_a_merge_of_the_newest_ones_keeps_what_hides_older_entries(tmp_path: Path) -> None:
    with inline(tmp_path / "s") as store:
        for number in range(6000):
            store.put(b"%05d" % number, os.urandom(100))
        store.compact()
        merges = store.stats().merge_count
        store.delete(b"00001")
        store.delete_range(start=b"00010", stop=b"00020")
        flush(store)
        store.put(b"00003", b"expires", ttl_seconds=1)
        engine_of(store).fs.advance(2)  # type: ignore[attr-defined]  # hooked
        while store.stats().merge_count == merges:
            flush(store)
        assert len(summaries(store)) == 2  # the newer ones were merged, the large one was not
        newest = engine_of(store).catalog.sources.snapshots[0]
        assert list(newest.ranges) == [(b"00010", b"00020")]
        assert newest.find(b"00001") == (None, 6001)
        assert store.get(b"00001") is None
        assert store.get(b"00003") is None
        assert store.count(stop=b"~") == 6000 - 1 - 1 - 10


def test_space_comes_back_after_delete_range_and_compact(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as store:
        for number in range(2000):
            store.put(b"old/%05d" % number, os.urandom(500))
        for number in range(50):
            store.put(b"new/%05d" % number, os.urandom(500))
        store.compact()
        before = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*"))
        assert before > 1_000_000
        store.delete_range(b"old/")
        store.compact()
        after = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*"))
        assert after < 60_000
        assert store.stats().disk_bytes < 60_000
        assert store.count() == 50
        store.delete_range(b"")
        store.compact()
        assert store.stats().disk_bytes < 1000


def test_space_of_overwrites_and_deletes_comes_back_by_itself(tmp_path: Path) -> None:
    with inline(tmp_path / "s") as store:
        for turn in range(30):
            for number in range(300):
                store.put(b"%04d" % number, os.urandom(100))
            if turn == 15:
                store.delete_range(b"0")
        stats = store.stats()
        assert stats.disk_bytes - stats.log_bytes < 300 * 130 * 4
        assert stats.snapshot_count <= 6


def test_what_replaces_nothing_is_not_rewritten_and_what_is_replaced_is_merged_away(
    tmp_path: Path,
) -> None:
    with inline(tmp_path / "s", cache_bytes=1 << 24) as store:
        engine = engine_of(store)
        while store.stats().snapshot_count < 3:
            store.put(b"%d" % (store.stats().last_sequence * 7919 % 100_003), b"new")
        assert store.stats().merge_count == 0
        assert [each.replaced_share for each in engine.catalog.sources.snapshots] == [0.0] * 3
        model = dict(store.scan())
        while not store.stats().merge_count:
            for key in list(model):
                model[key] = b"replaced" * 3
                store.put(key, model[key])
        assert dict(store.scan()) == model
        stats = store.stats()
        live = sum(len(key) + len(value) for key, value in model.items())
        assert stats.disk_bytes - stats.log_bytes < 1.5 * live


def test_writers_ahead_of_a_flush_go_on_in_small_steps_until_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_finish = threading.Event()
    finish, wait_for_room = SnapshotWriter.finish, Engine._wait_for_room
    waits = []

    def held_up(self: SnapshotWriter) -> Any:
        assert may_finish.wait(60)
        return finish(self)

    def noted(self: Engine) -> bool:
        waits.append(self._memtable.bytes_used)
        return wait_for_room(self)

    monkeypatch.setattr(SnapshotWriter, "finish", held_up)
    monkeypatch.setattr(Engine, "_wait_for_room", noted)
    budget = 1 << 20
    with ExitStack() as stack:
        opened = walkv.open(tmp_path / "s", sync=walkv.WriteBack(), memtable_bytes=budget)
        store = stack.enter_context(opened)
        stack.callback(may_finish.set)
        engine, number = engine_of(store), 0

        def put_while(goes_on: Callable[[], bool]) -> None:
            nonlocal number
            while goes_on():
                store.put(b"%d" % number, b"")
                number += 1

        put_while(lambda: not engine.catalog.sources.frozen)
        (frozen,) = engine.catalog.sources.frozen
        room = budget - frozen.memtable.bytes_used
        waits.clear()
        put_while(lambda: engine._memtable.bytes_used < room)
        # Some at once, more with the flush; then, a little at a time, as far as there is room.
        assert waits[0] < room / 2
        late = [used for used in waits if used > 0.7 * room]
        assert len(late) >= 2
        assert all(later - earlier < 70_000 for earlier, later in pairwise(late))
        writer = threading.Thread(target=store.put, args=(b"one more", b""))
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        may_finish.set()
        writer.join(60)
        assert not writer.is_alive()
        assert store.count() == number + 1


def test_what_cannot_be_read_for_a_merge_holds_up_no_flush(tmp_path: Path) -> None:
    fs = HookedFileSystem(threads=False)
    options: dict[str, Any] = {"memtable_bytes": limits.MIN_MEMTABLE_BYTES, "cache_bytes": 0}
    with walkv.open(tmp_path / "s", filesystem=fs, **options) as store:
        while store.stats().snapshot_count < 2:
            store.put(b"%08d" % store.stats().last_sequence, b"x" * 50, sync=walkv.WriteBack())
    with walkv.open(tmp_path / "s", filesystem=fs, **options) as store:
        oldest = engine_of(store).catalog.sources.snapshots[-1].path
        assert not engine_of(store).catalog.sources.snapshots[-1].ranges

        def unreadable(operation: str, path: str) -> None:
            if operation == "read" and path == oldest:
                raise OSError(errno.EIO, "Input/output error", path)

        fs.hook = unreadable
        flushes = store.stats().flush_count
        number = 0
        while store.stats().flush_count < flushes + 3:
            store.put(b"new%06d" % number, b"x" * 50, sync=walkv.WriteBack())
            number += 1
        assert "Input/output error" in store.stats().background_error
        fs.hook = None
        assert store.count(b"new") == number


def test_nothing_is_written_behind_a_seal_while_a_flush_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation fails half way beside a running flush: commits must finish it first."""
    may_finish = threading.Event()
    finish = SnapshotWriter.finish

    def held_up(self: SnapshotWriter) -> Any:
        assert may_finish.wait(60)
        return finish(self)

    monkeypatch.setattr(SnapshotWriter, "finish", held_up)
    fs = HookedFileSystem()
    options: dict[str, Any] = {"memtable_bytes": 1 << 20, "sync": walkv.WriteBack()}
    with ExitStack() as stack:
        store = stack.enter_context(walkv.open(tmp_path / "s", filesystem=fs, **options))
        stack.callback(may_finish.set)
        engine, number = engine_of(store), 0
        while not engine.catalog.sources.frozen:
            store.put(b"%d" % number, b"x" * 100)
            number += 1
        fs.hook = fail("create", ".wal", errno.ENOSPC)
        with pytest.raises(OSError, match="No space"):
            store.compact()
        fs.hook = None
        assert engine.write_log.sealed
        writer = threading.Thread(target=store.put, args=(b"behind it", b""))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        may_finish.set()
        writer.join(60)
        assert store.count() == number + 1
    with walkv.open(tmp_path / "s") as store:
        assert store.count() == number + 1


def test_a_sample_is_spread_over_the_snapshot(tmp_path: Path) -> None:
    with inline(tmp_path / "s", memtable_bytes=1 << 26) as store:
        assert not engine_of(store).catalog.sources.snapshots
        for number in range(9000):
            store.put(b"%05d" % number, os.urandom(250))
        store.compact()
        (snapshot,) = engine_of(store).catalog.sources.snapshots
        for count in (1, 3, 64, 1000):
            sample = snapshot.sample(count)
            assert sample == sorted(set(sample))
            assert min(count, 280) / 2 <= len(sample) <= count
            assert sample[0] == b"00000"
            assert int(sample[-1]) >= 9000 * (count - 1) / count / 2


def test_partitions_that_overlap_nothing_are_copied_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as store:
        model = {}
        for number in range(9000):
            model[b"%05d" % number] = os.urandom(250)
            store.put(b"%05d" % number, model[b"%05d" % number])
        store.compact()
        engine = engine_of(store)
        parts = engine.catalog.sources.snapshots[0].partitions()
        assert len(parts) >= 3
        rewritten: list[bytes] = []
        add = SnapshotWriter.add

        def noted(self: Any, keys: list[bytes], *rest: Any) -> None:
            rewritten.extend(keys)
            add(self, keys, *rest)

        store.put(b"00000+", b"into the first partition")
        model[b"00000+"] = b"into the first partition"
        store.put(b"zz", b"behind all")
        model[b"zz"] = b"behind all"
        monkeypatch.setattr(SnapshotWriter, "add", noted)
        store.compact()
        monkeypatch.undo()
        assert len(engine.catalog.sources.snapshots) == 1
        merged = set(rewritten)
        assert {b"00000", b"00000+", b"zz"} <= merged
        # The two new keys span everything, so their memtable's partition overlaps all; write a
        # narrow one to see partitions go by.
        rewritten.clear()
        store.put(b"zzz", b"alone")
        model[b"zzz"] = b"alone"
        monkeypatch.setattr(SnapshotWriter, "add", noted)
        store.compact()
        monkeypatch.undo()
        assert set(rewritten) == {b"zzz"}
        assert dict(store.scan()) == model
        assert store.verify().ok


def test_a_deleted_range_reaches_into_copied_partitions(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as store:
        for number in range(9000):
            store.put(b"%05d" % number, os.urandom(250))
        store.compact()
        store.delete_range(start=b"04000", stop=b"04010")
        store.compact()
        assert store.count() == 8990
        assert store.count(start=b"03990", stop=b"04020") == 20
        assert store.stats().snapshot_entries == 8990


@pytest.mark.parametrize("operation", ["create", "write"])
@pytest.mark.parametrize("suffix", [".snap", "MANIFEST.tmp"])
def test_a_flush_that_fails_changes_nothing_and_is_done_again(
    tmp_path: Path, operation: str, suffix: str
) -> None:
    with inline(tmp_path / "s") as store:
        fs: Any = engine_of(store).fs
        store.put(b"a", b"1")
        fs.hook = fail(operation, suffix, errno.ENOSPC)
        with pytest.raises(OSError, match="No space"):
            store.compact()
        fs.hook = None
        assert store.get(b"a") == b"1"
        assert os.listdir(tmp_path / "s" / "snapshots") == []
        store.compact()
        assert summaries(store) == [(1, 0)]
        assert store.stats().background_error == ""
        assert len(os.listdir(tmp_path / "s" / "snapshots")) == 1
    with walkv.open(tmp_path / "s") as store:
        assert list(store.scan()) == [(b"a", b"1")]


def test_a_damaged_input_stops_merges_and_not_commits(tmp_path: Path) -> None:
    with inline(tmp_path / "s", cache_bytes=0) as store:
        for number in range(500):
            store.put(b"%05d" % number, os.urandom(60))
        store.compact()
        (path,) = (tmp_path / "s" / "snapshots").iterdir()
        data = bytearray(path.read_bytes())
        data[2000] ^= 1
        path.write_bytes(data)
        store.put(b"00000", b"new")
        with pytest.raises(walkv.CorruptionError) as caught:
            store.compact()
        assert caught.value.path == str(path)
        assert "checksum" in store.stats().background_error
        store.put(b"x", b"1")
        flush(store)
        assert store.get(b"x") == b"1"
        assert path.exists()


def test_old_files_go_only_after_the_manifest_names_the_new_one(tmp_path: Path) -> None:
    with inline(tmp_path / "s") as store:
        fs: Any = engine_of(store).fs
        store.put(b"a", b"1")
        store.compact()
        store.put(b"b", b"1")
        fs.calls.clear()
        store.compact()
        steps = [(operation, os.path.basename(path)) for operation, path in fs.calls]
        unlinked = [at for at, step in enumerate(steps) if step[0] == "unlink"]
        assert len(unlinked) == 3  # a segment, then the two snapshots that were merged
        for at in unlinked:
            before = [step for step in steps[:at] if step[1] == "MANIFEST"]
            assert before[-1] == ("rename", "MANIFEST")
            renamed = max(n for n in range(at) if steps[n] == ("rename", "MANIFEST"))
            assert ("sync_directory", "s") in steps[renamed:at]
            snapshot = [n for n in range(renamed) if steps[n] == ("sync_directory", "snapshots")]
            assert snapshot


def test_a_view_reads_files_that_compaction_removed(tmp_path: Path) -> None:
    with inline(tmp_path / "s", cache_bytes=0) as store:
        for number in range(500):
            store.put(b"%05d" % number, b"1")
        store.compact()
        with store.view() as view:
            store.delete_range(b"")
            store.compact()
            assert os.listdir(tmp_path / "s" / "snapshots") == []
            assert view.count() == 500
            assert view.get(b"00007") == b"1"


def test_a_snapshot_that_cannot_be_opened_again_is_removed(tmp_path: Path) -> None:
    """With no descriptors left each retry would leave a whole snapshot behind."""
    fs = HookedFileSystem()
    with walkv.open(tmp_path / "s", filesystem=fs) as store:
        store.put(b"k", b"v")
        fs.hook = fail("open", ".snap", errno.EMFILE)
        with pytest.raises(OSError, match="Too many open files"):
            store.compact()
        assert list((tmp_path / "s" / "snapshots").iterdir()) == []
        store.compact()
        assert store.get(b"k") == b"v"


class _NoSpaceForMerges(HookedFileSystem):
    """Files of at most 60,000 bytes: flushes fit, merges do not."""

    full = True

    def create(self, path: str) -> OsFile:
        file = super().create(path)
        if self.full and path.endswith(".snap"):
            write = file.write

            def limited(data: bytes, offset_bytes: int) -> None:
                if offset_bytes + len(data) > 60_000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                write(data, offset_bytes)

            file.write = limited  # type: ignore[method-assign]
        return file


@pytest.mark.parametrize("threads", [False, True])
def test_a_merge_that_fails_holds_up_no_flush_and_no_commit(tmp_path: Path, threads: bool) -> None:
    fs = _NoSpaceForMerges(threads=threads)
    store = walkv.open(tmp_path / "s", memtable_bytes=65_536, filesystem=fs)
    rng = random.Random(1)
    for number in range(900):
        store.put(b"%06d" % number, rng.randbytes(700), sync=walkv.WriteBack())
    # The error of the merges is told, and not by refusing commits.
    assert "No space" in str(store.stats().background_error)
    assert store.stats().snapshot_count > 10
    fs.full = False
    store.compact()
    assert store.count() == 900
    assert store.stats().snapshot_count == 1
    store.close()


def test_snapshots_stay_bounded_while_merges_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_SNAPSHOTS", 12)
    fs = _NoSpaceForMerges(threads=False)
    store = walkv.open(tmp_path / "s", memtable_bytes=65_536, filesystem=fs)
    rng = random.Random(1)
    number = 0
    refused = None
    while refused is None and number < 2_000:
        try:
            store.put(b"%06d" % number, rng.randbytes(700), sync=walkv.WriteBack())
            number += 1
        except OSError as error:
            refused = error
    assert refused is not None
    assert refused.errno == errno.ENOSPC
    assert "cannot be merged" in str(refused)
    assert store.stats().snapshot_count == 12
    assert store.count() == number  # what was refused is not there, everything before it is
    fs.full = False
    store.put(b"after", b"1")
    store.close()
    with walkv.open(tmp_path / "s") as reopened:
        assert reopened.count() == number + 1


def test_no_descriptor_for_the_sync_of_a_directory_is_not_a_failed_sync(tmp_path: Path) -> None:
    fs = FaultyFileSystem(threads=False)
    store = walkv.open(tmp_path / "s", filesystem=fs)
    store.put(b"a", b"1")
    fs.fault = Fault(
        lambda call: call.operation == "sync_directory" and call.path.endswith("log"), errno.EMFILE
    )
    with pytest.raises(OSError, match="Too many open files"):
        store.compact()
    assert len(fs.raised) == 1
    store.put(b"b", b"2")
    store.compact()
    store.close()
    with walkv.open(tmp_path / "s") as reopened:
        assert dict(reopened.scan()) == {b"a": b"1", b"b": b"2"}
