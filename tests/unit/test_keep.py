"""Settled segments that are kept: which, for how long, and across crashes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import walkv
from walkv import KeepLog, limits
from walkv.engine import keep, segment
from walkv.engine.vfs import OsFileSystem
from walkv.testing import Fault, FaultyFileSystem, ManualClock, SimulatedFileSystem

FS = OsFileSystem()
ALL = KeepLog(1e6, 1 << 30)


def kept(path: Path) -> list[int]:
    return keep.kept_segments(FS, str(path / "log"))


def settle(store: walkv.Store, number: int, size_bytes: int = 1_000) -> None:
    """Commit something and settle it: one segment more."""
    store.put(b"%d" % number, bytes(size_bytes))
    store.compact()


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        settle(store, 1)
    assert kept(tmp_path / "s") == []
    assert not (tmp_path / "s" / "log" / "KEEP").exists()


def test_settled_segments_are_kept_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=ALL) as store:
        store.put(b"a", b"1")
        (first,) = (path / "log").glob("*.wal")
        before = first.read_bytes()
        store.compact()
        (same,) = (path / "log").glob("*.kept")
        assert same.stem == first.stem
        assert same.read_bytes().startswith(before.rstrip(b"\0"))
        settle(store, 2)
        assert len(kept(path)) == 2
        assert store.stats().kept_segment_count == 2
        sizes = sum(each.stat().st_size for each in (path / "log").glob("*.kept"))
        assert store.stats().kept_bytes == sizes > 0


def test_the_setting_is_the_stores(tmp_path: Path) -> None:
    path = tmp_path / "s"
    walkv.open(path, keep_log=ALL).close()
    setting = json.loads((path / "log" / "KEEP").read_bytes())
    assert setting == {"seconds": 1e6, "max_bytes": 1 << 30}
    with walkv.open(path) as store:  # who knows nothing of it leaves no gap
        settle(store, 1)
    with walkv.open(path, keep_log=KeepLog(5.0, 7)):
        assert keep.read_setting(FS, str(path / "log")) == KeepLog(5.0, 7)


def test_keeping_ends(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=ALL) as store:
        settle(store, 1)
    with walkv.open(path, keep_log=KeepLog(0, 0)) as store:
        assert kept(path) == []
        settle(store, 2)
    assert sorted(each.suffix for each in (path / "log").iterdir()) == [".wal"]


def test_the_oldest_go_once_they_are_too_many(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=KeepLog(1e6, 10_000)) as store:
        for number in range(8):
            settle(store, number, 3_000)
        firsts = kept(path)
        assert len(firsts) == 3
        assert store.stats().kept_bytes <= 10_000
        # What is left is the newest, without a gap.
        changes = list(store.changes())
        assert [c.operations[0].key for c in changes] == [b"5", b"6", b"7"]


def test_one_that_somebody_has_removed_is_in_nobodys_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=KeepLog(1e6, 10_000)) as store:
        for number in range(3):
            settle(store, number, 3_000)
        min((path / "log").glob("*.kept")).unlink()
        for number in range(3, 9):
            settle(store, number, 3_000)
        assert len(kept(path)) == 3
    assert not caplog.records


def test_the_old_go_once_their_time_is_over() -> None:
    clock = ManualClock()
    fs = FaultyFileSystem(SimulatedFileSystem(clock=clock), clock=clock, threads=False)
    with walkv.open("/s", keep_log=KeepLog(100.0, 1 << 30), filesystem=fs) as store:
        for number in range(5):
            settle(store, number)
            clock.advance(30.0)
        # Begun at 0, 0, 30, 60, 90; each ended when the next one was begun.
        settle(store, 5)
        ends = [change.time.timestamp() for change in store.changes()]
        assert clock.wall_ns / 1e9 - min(ends) <= 130.0
        assert len(ends) == 4
        clock.wall_ns -= 10**12  # the clock is set back: rather too many than too few
        settle(store, 6)
        assert len(list(store.changes())) == 5


@pytest.mark.parametrize("content", [b"", b"[]", b'{"seconds": -1, "max_bytes": 5}', b"\xff" * 99])
def test_a_setting_that_cannot_be_read_keeps_everything(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=KeepLog(1e6, 1)) as store:
        settle(store, 1)
        assert kept(path) == []
    (path / "log" / "KEEP").write_bytes(content)
    with caplog.at_level(logging.WARNING, "walkv"), walkv.open(path) as store:
        settle(store, 2)
        settle(store, 3)
        assert len(kept(path)) >= 2
    assert "KEEP" in caplog.text
    with walkv.open(path, keep_log=ALL):
        assert keep.read_setting(FS, str(path / "log")) == ALL


def test_an_unfinished_setting_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    walkv.open(path).close()
    (path / "log" / "KEEP.tmp").write_bytes(b"half")
    walkv.open(path, keep_log=ALL).close()
    assert keep.read_setting(FS, str(path / "log")) == ALL
    assert not (path / "log" / "KEEP.tmp").exists()


@pytest.mark.parametrize("fields", [(-1, 5), (5, -1), (float("nan"), 5)])
def test_bounds_are_not_negative(fields: Any) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        KeepLog(*fields)


def test_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="KeepLog"):
        walkv.open(tmp_path / "s", keep_log=5)  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()


def test_a_segment_left_under_its_old_name_is_kept_by_recovery(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=ALL) as store:
        settle(store, 1)
    (segment_path,) = (path / "log").glob("*.kept")
    old_name = segment_path.with_suffix(".wal")
    segment_path.rename(old_name)  # as if the process had been killed before the rename
    with walkv.open(path) as store:
        assert store.recovery_report.removed_files == ()
        assert len(kept(path)) == 1
        assert [c.operations[0].key for c in store.changes()] == [b"1"]
    assert not old_name.exists()


def test_a_failed_rename_is_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimulatedFileSystem()
    fs = FaultyFileSystem(disk, threads=False)
    with walkv.open("/s", keep_log=ALL, filesystem=fs) as store:
        store.put(b"a", b"1")
        fs.fault = Fault(lambda call: call.operation == "rename" and call.path.endswith(".kept"))
        with caplog.at_level(logging.WARNING, "walkv"):
            store.compact()
        assert "not kept in order" in caplog.text
        fs.heal()
        store.put(b"b", b"2")
        store.compact()
        assert len(keep.kept_segments(fs, "/s/log")) == 2
    with walkv.open("/s", filesystem=fs) as store:
        keys = [c.operations[0].key for c in store.changes()]
        assert keys == [b"a", b"b"]


def test_every_crash_leaves_the_log_without_a_gap() -> None:
    """Kept or unsettled, everything that had been durable can be read from the log."""
    disk = SimulatedFileSystem(seed=3)
    durable = [0]
    seen = 0

    def look(operation: str, path: str) -> None:
        nonlocal seen
        if not durable[0]:
            return
        states = list(disk.crash_states())
        for state in states[:: max(len(states) // 6, 1)]:
            seen += 1
            other = SimulatedFileSystem.after_power_failure(state)
            with walkv.open("/s", filesystem=other, memtable_bytes=limits.MIN_MEMTABLE_BYTES) as s:
                keys = [int(c.operations[0].key) for c in s.changes()]
                assert keys == list(range(1, len(keys) + 1))
                assert len(keys) >= durable[0]
                assert s.count() == len(keys)

    store = walkv.open("/s", keep_log=ALL, filesystem=disk)
    disk.on_operation = look
    for number in range(1, 7):
        store.put(b"%d" % number, bytes(50))
        durable[0] = number
        if number % 2:
            store.compact()
    disk.on_operation = None
    store.close()
    assert seen > 300


def test_what_is_too_old_goes_when_the_store_is_opened() -> None:
    clock = ManualClock()
    disk = SimulatedFileSystem(clock=clock)
    with walkv.open("/s", keep_log=KeepLog(100.0, 1 << 30), filesystem=disk) as store:
        for number in range(3):
            settle(store, number)
        assert store.stats().kept_segment_count == 3
    clock.advance(1_000.0)
    with walkv.open("/s", filesystem=disk) as store:
        assert store.stats().kept_segment_count == 0
        assert store.stats().kept_bytes == 0
    with walkv.open("/s", keep_log=ALL, filesystem=disk) as store:
        for number in range(3):
            settle(store, number)
    with walkv.open("/s", keep_log=KeepLog(1e6, 1), filesystem=disk) as store:
        assert store.stats().kept_segment_count == 0


def test_a_rename_that_fails_keeps_nobody_out() -> None:
    disk = SimulatedFileSystem()
    with walkv.open("/s", keep_log=ALL, filesystem=disk) as store:
        store.put(b"a", b"1")
        fs = FaultyFileSystem(disk, threads=False)
        store.compact()
    (kept,) = keep.kept_segments(disk, "/s/log")
    disk.rename(f"/s/log/{keep.kept_name(kept)}", f"/s/log/{segment.file_name(kept)}")
    fs.fault = Fault(lambda call: call.operation == "rename" and call.path.endswith(".kept"))
    with walkv.open("/s", filesystem=fs) as store:
        assert [c.operations[0].key for c in store.changes()] == [b"a"]


def test_a_kept_segment_has_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=ALL) as store:
        settle(store, 1)
        settle(store, 2)
        first, second = sorted((path / "log").glob("*.kept"))
        data = first.read_bytes()
        second.write_bytes(data)
        with pytest.raises(walkv.CorruptionError, match="another segment's name"):
            list(store.changes())
    assert segment.parse_file_name(first.name) is None


def test_one_that_cannot_be_opened_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path, keep_log=ALL) as store:
        settle(store, 1)
        settle(store, 2)
    first = min((path / "log").glob("*.kept"))
    first.unlink()
    first.symlink_to(first.name)  # a loop: every opening fails
    with walkv.open(path) as store:
        assert store[b"1"] == bytes(1_000)
        settle(store, 3)
        assert store.stats().kept_segment_count == 3
