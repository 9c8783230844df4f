"""Look, then act: each verdict on how a store was left, and what is done about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hooked import HookedFileSystem, contents, listing

import walkv
from walkv.engine import frame, manifest, recovery, segment
from walkv.engine.manifest import Manifest
from walkv.engine.segment import SegmentHeader
from walkv.engine.snapshot import BlockCache
from walkv.engine.vfs import OsFileSystem

FS = OsFileSystem()


def left_by_kill(path: Path, count: int = 5) -> Path:
    """A store as ``kill -9`` leaves it: ``count`` single puts, synced, and not closed."""
    made, copy = path / "made", path / "killed"
    with walkv.open(made) as store:
        for number in range(count):
            store.put(b"k%d" % number, b"v%d" % number)
        shutil.copytree(made, copy)
    return copy


def tail_of(store: Path) -> Path:
    return max((store / "log").iterdir())


def offsets(path: Path) -> list[int]:
    """Where the frames of a segment begin, and where the last one ends."""
    data = path.read_bytes()
    file = FS.open(str(path))
    known = manifest.read(FS, str(path.parent.parent))
    scanner = segment.Scanner(file, segment.read_header(file, known.store_id))
    found = [segment.HEADER_BYTES]
    found += [each.end_offset for each in scanner.frames()]
    assert found[-1] <= len(data)
    return found


def expected(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"k%d" % number, b"v%d" % number) for number in range(count)]


def refuses(store: Path, *parts: str) -> walkv.CorruptionError:
    """Opening must be refused, twice in the same way, and must change nothing."""
    before = contents(store)
    for _ in range(2):
        for read_only in (False, True):
            with pytest.raises(walkv.CorruptionError) as caught:
                walkv.open(store, read_only=read_only)
            assert caught.value.path == str(store.joinpath(*parts))
            assert contents(store) == before
    assert str(caught.value.path) in str(caught.value)
    return caught.value


def test_clean(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        store.put(b"k", b"v")
    before = contents(tmp_path / "s")
    with walkv.open(tmp_path / "s") as store:
        report = store.recovery_report
        assert contents(tmp_path / "s") == before
        assert report.clean
        assert not report.created
        assert (report.frame_count, report.operation_count, report.segment_count) == (1, 1, 1)
        assert (report.cut_bytes, report.cut_reason, report.quarantine_path) == (0, "", None)
        assert report.removed_files == ()
        assert report.last_sequence == 1
        assert report.elapsed_seconds > 0
        assert "closed cleanly" in str(report)


def test_killed_with_zeros_written_ahead(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    tail = tail_of(store)
    assert tail.stat().st_size > offsets(tail)[-1]  # zeros were written ahead
    with walkv.open(store) as opened:
        report = opened.recovery_report
        assert list(opened.scan()) == expected(5)
        assert not report.clean
        assert (report.frame_count, report.cut_bytes) == (5, 0)
        assert "not closed cleanly" in str(report)
        assert os.listdir(store / "quarantine") == []


def test_after_an_unclean_end_commits_go_on_in_a_new_segment(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    salts = set()
    for number in range(3):
        with walkv.open(store) as opened:
            opened.put(b"again", b"%d" % number)
            names = sorted(os.listdir(store / "log"))
            assert len(names) == number + 2
            known = manifest.read(FS, str(store))
            assert [segment.file_name(first) for first in known.segments] == names
            shutil.copytree(store, tmp_path / str(number))
        store = tmp_path / str(number)
    for path in (store / "log").iterdir():
        file = FS.open(str(path))
        salts.add(segment.read_header(file, known.store_id).salt)
    assert len(salts) == 4
    with walkv.open(store) as opened:
        assert opened[b"again"] == b"2"
        assert opened.count() == 6


def test_torn_tail_at_every_length_of_the_last_frame(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    tail = tail_of(store)
    starts = offsets(tail)
    data = tail.read_bytes()
    for length in range(starts[-2], starts[-1]):
        copy = tmp_path / str(length)
        shutil.copytree(store, copy)
        tail_of(copy).write_bytes(data[:length])
        with walkv.open(copy) as opened:
            report = opened.recovery_report
            assert list(opened.scan()) == expected(4)
            assert report.last_sequence == 4
            cut = length - starts[-2]
            assert report.cut_bytes == cut
            assert not report.clean
            if cut:
                assert report.quarantine_path is not None
                saved = Path(report.quarantine_path)
                assert saved.parent == copy / "quarantine"
                assert saved.read_bytes() == data[starts[-2] : length]
                assert "cut a torn tail" in str(report)
            assert opened.put(b"next", b"") > 4
        shutil.rmtree(copy)


def test_torn_tail_with_garbage_is_saved_once_and_recovery_is_repeatable(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    tail = tail_of(store)
    end = offsets(tail)[-1]
    garbage = os.urandom(3000)
    tail.write_bytes(tail.read_bytes()[:end] + garbage)
    killed_again = tmp_path / "killed-again"
    with walkv.open(store) as opened:
        assert opened.recovery_report.cut_bytes == 3000
        shutil.copytree(store, killed_again)
    with walkv.open(killed_again) as opened:
        assert opened.recovery_report.cut_bytes == 0
        assert list(opened.scan()) == expected(5)
    assert [path.read_bytes() for path in (killed_again / "quarantine").iterdir()] == [garbage]


def test_earlier_evidence_in_quarantine_is_never_overwritten(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    tail = tail_of(store)
    end = offsets(tail)[-1]
    data = tail.read_bytes()[:end] + b"torn"
    saved = store / "quarantine" / f"{tail.name}.{end}.torn"
    saved.write_bytes(b"from before")
    tail.write_bytes(data)
    with walkv.open(store) as opened:
        assert opened.recovery_report.quarantine_path != str(saved)
    assert saved.read_bytes() == b"from before"
    assert len(os.listdir(store / "quarantine")) == 2


def test_hole_before_unsynced_frames_is_a_torn_tail(tmp_path: Path) -> None:
    """Later pages may reach the disk first: nothing promised, so nothing is refused."""
    made, store = tmp_path / "made", tmp_path / "killed"
    with walkv.open(made, sync=walkv.WriteBack(interval_seconds=3600)) as opened:
        for number in range(5):
            opened.put(b"k%d" % number, b"v%d" % number)
        shutil.copytree(made, store)
    tail = tail_of(store)
    starts = offsets(tail)
    data = bytearray(tail.read_bytes())
    data[starts[2] : starts[3]] = bytes(starts[3] - starts[2])
    tail.write_bytes(data)
    with walkv.open(store) as opened:
        assert list(opened.scan()) == expected(2)
        assert opened.recovery_report.cut_bytes == len(data) - starts[2]


def test_damage_that_a_later_frame_promised_is_refused(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    tail = tail_of(store)
    starts = offsets(tail)
    data = tail.read_bytes()
    # Frame 5 says that frames 1 to 4 are durable; nothing says so of frame 5 itself.
    for number in range(4):
        for at in (starts[number], starts[number] + 20, starts[number + 1] - 1):
            damaged = bytearray(data)
            damaged[at] ^= 0x10
            tail.write_bytes(damaged)
            error = refuses(store, "log", tail.name)
            assert error.offset_bytes == starts[number]
            assert "durable" in error.reason
    damaged = bytearray(data)
    damaged[starts[4] + 20] ^= 0x10
    tail.write_bytes(damaged)
    with walkv.open(store) as opened:
        assert list(opened.scan()) == expected(4)


def test_damage_before_a_clean_close_is_always_refused(tmp_path: Path) -> None:
    store = tmp_path / "s"
    with walkv.open(store) as opened:
        for number in range(3):
            opened.put(b"k%d" % number, b"v%d" % number)
    tail = tail_of(store)
    starts = offsets(tail)
    data = tail.read_bytes()
    for start in starts[:3]:
        damaged = bytearray(data)
        damaged[start + 44] ^= 1
        tail.write_bytes(damaged)
        assert refuses(store, "log", tail.name).offset_bytes == start
    damaged = bytearray(data)
    damaged[starts[3] + 10] ^= 1  # the mark of the close itself
    tail.write_bytes(damaged)
    with walkv.open(store) as opened:
        assert list(opened.scan()) == expected(3)
        assert not opened.recovery_report.clean


def two_segments(path: Path) -> Path:
    """A sealed segment and a tail, both unsettled."""
    store = left_by_kill(path)
    walkv.open(store).close()
    assert len(os.listdir(store / "log")) == 2
    return store


def test_sealed_segment_that_does_not_end_in_its_seal_is_refused(tmp_path: Path) -> None:
    store = two_segments(tmp_path)
    sealed = min((store / "log").iterdir())
    data = sealed.read_bytes()
    for length in (segment.HEADER_BYTES, len(data) - 45, len(data) - 1):
        sealed.write_bytes(data[:length])
        refuses(store, "log", sealed.name)
    for more in (b"\1", bytes(300) + b"\1"):
        sealed.write_bytes(data + more)
        refuses(store, "log", sealed.name)
    sealed.write_bytes(data[:20])
    assert refuses(store, "log", sealed.name).offset_bytes == 0


def test_zeros_behind_a_seal_hide_nothing(tmp_path: Path) -> None:
    store = two_segments(tmp_path)
    with walkv.open(store, read_only=True) as reader:
        state = dict(reader.scan())
    sealed = min((store / "log").iterdir())
    sealed.write_bytes(sealed.read_bytes() + bytes(5_000))
    for read_only in (True, False):
        with walkv.open(store, read_only=read_only) as opened:
            assert dict(opened.scan()) == state
            assert opened.verify().ok


def test_bytes_behind_the_seal_of_the_newest_segment(tmp_path: Path) -> None:
    """Zeros can be left there by a crash; anything else cannot, and is refused."""
    store = two_segments(tmp_path)
    sealed, tail = sorted((store / "log").iterdir())
    known = manifest.read(FS, str(store))
    tail.unlink()
    manifest.write(FS, str(store), known.next(segments=known.segments[:1]))
    data = sealed.read_bytes()
    sealed.write_bytes(data + b"x" * 10)
    refuses(store, "log", sealed.name)
    sealed.write_bytes(data + bytes(5000))
    with walkv.open(store) as opened:
        assert list(opened.scan()) == expected(5)
        opened.put(b"k5", b"v5")
    with walkv.open(store) as opened:
        assert list(opened.scan()) == expected(6)


def test_missing_files_are_damage(tmp_path: Path) -> None:
    store = two_segments(tmp_path)
    with walkv.open(store) as opened:
        opened.compact()
        opened.put(b"k9", b"v9")
        shutil.copytree(store, tmp_path / "killed-2")
    store = tmp_path / "killed-2"
    walkv.open(store).close()
    names = [str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()]
    names = [name for name in names if name != "LOCK"]
    assert len(names) == 4  # two segments, a snapshot, the manifest
    for name in names:
        (store / name).rename(tmp_path / "away")
        error = refuses(store, *name.split("/"))
        assert "missing" in error.reason
        (tmp_path / "away").rename(store / name)
    walkv.open(store).close()


def test_lock_file_may_be_missing(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    (store / "LOCK").unlink()
    with walkv.open(store) as opened:
        assert list(opened.scan()) == expected(5)


def test_segments_in_each_others_place_are_refused(tmp_path: Path) -> None:
    store = two_segments(tmp_path)
    one, two = sorted((store / "log").iterdir())
    one.rename(tmp_path / "away")
    two.rename(one)
    (tmp_path / "away").rename(two)
    assert "another segment's name" in refuses(store, "log", one.name).reason


def test_a_gap_between_segments_is_refused(tmp_path: Path) -> None:
    store = two_segments(tmp_path)
    known = manifest.read(FS, str(store))
    (store / "log" / segment.file_name(known.segments[1])).unlink()
    header = SegmentHeader(known.store_id, 7, 90, 0)
    segment.create(FS, str(store / "log"), header).close()
    manifest.write(FS, str(store), known.next(segments=(1, 90)))
    assert "does not continue" in refuses(store, "log", segment.file_name(90)).reason


def test_segment_of_another_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = left_by_kill(tmp_path), left_by_kill(tmp_path / "other")
    shutil.copy(tail_of(other), tail_of(one))
    assert "another store" in refuses(one, "log", tail_of(one).name).reason


def test_unknown_files_of_ours_are_removed_and_others_are_left_alone(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    ours = ["log/00000000000000000099.wal", "snapshots/0000000042.snap", "MANIFEST.tmp"]
    others = ["log/notes.txt", "log/1.wal", "snapshots/x.snap", "snapshots/0000000042.snap.bak"]
    for name in ours + others:
        (store / name).write_bytes(b"something")
    with walkv.open(store, read_only=True) as reader:
        assert list(reader.scan()) == expected(5)
    assert all((store / name).exists() for name in ours + others)
    with walkv.open(store) as opened:
        removed = sorted(
            os.path.relpath(name, store) for name in opened.recovery_report.removed_files
        )
        assert removed == sorted(ours)
        assert list(opened.scan()) == expected(5)
    assert not any((store / name).exists() for name in ours)
    assert all((store / name).exists() for name in others)


def test_an_older_manifest_over_a_newer_log_is_refused(tmp_path: Path) -> None:
    path = left_by_kill(tmp_path)
    older = (path / "MANIFEST").read_bytes()
    with walkv.open(path) as store:  # in a new segment
        store.put(b"later", b"1")
    newer = (path / "MANIFEST").read_bytes()
    assert newer != older
    (path / "MANIFEST").write_bytes(older)
    error = refuses(path, "MANIFEST")
    assert "older than the log" in str(error)
    (path / "MANIFEST").write_bytes(newer)
    with walkv.open(path) as store:
        assert store[b"later"] == b"1"


def test_verify_notices_a_manifest_replaced_underneath(tmp_path: Path) -> None:
    path = left_by_kill(tmp_path)
    older = (path / "MANIFEST").read_bytes()
    with walkv.open(path) as store:
        assert store.verify().ok
        reader = walkv.open(path, read_only=True)
        assert reader.verify().ok
        store.put(b"later", b"1")
        store.compact()
        # The reader has seen an older one, and knows that the writer goes on.
        assert reader.verify().ok
        newer = (path / "MANIFEST").read_bytes()
        (path / "MANIFEST").write_bytes(older)
        assert [problem.path for problem in store.verify().problems] == [str(path / "MANIFEST")]
        (path / "MANIFEST").write_bytes(newer)
        assert store.verify().ok
        reader.close()


def test_an_empty_directory_that_was_lost_is_made_again(tmp_path: Path) -> None:
    path = left_by_kill(tmp_path)
    (path / "snapshots").rmdir()
    with walkv.open(path, read_only=True) as reader:
        assert list(reader.scan()) == expected(5)
    assert not (path / "snapshots").exists()
    with walkv.open(path) as store:
        assert list(store.scan()) == expected(5)
        store.compact()
        assert store.verify().ok


def test_creation_that_was_interrupted_at_any_point_starts_over(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    walkv.open(tmp_path / "whole", filesystem=fs).close()
    changing = ("make_directory", "create", "write", "rename", "sync", "sync_directory")
    steps = sum(1 for operation, _ in fs.calls if operation in changing)
    assert steps > 8
    for step in range(steps):
        left = step

        def stop(operation: str, path: str) -> None:
            nonlocal left
            if operation in changing:
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1

        path = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            walkv.open(path, filesystem=HookedFileSystem(hook=stop)).close()
        with walkv.open(path) as store:
            store.put(b"k", b"v")
        with walkv.open(path) as store:
            assert list(store.scan()) == [(b"k", b"v")]


def test_every_directory_made_is_synced_into_its_parent(tmp_path: Path) -> None:
    fs = HookedFileSystem()
    target = tmp_path / "a" / "b" / "c.walkv"
    walkv.open(target, filesystem=fs).close()
    synced = {path for operation, path in fs.calls if operation == "sync_directory"}
    made = [tmp_path / "a", tmp_path / "a" / "b", target, target / "log", target / "snapshots"]
    assert [path for path in made if str(path.parent) not in synced] == []


def test_a_manifest_of_a_newer_format_is_a_format_error(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    path = store / "MANIFEST"
    data = bytearray(path.read_bytes())
    data[8:12] = (3).to_bytes(4, "little")
    from xxhash import xxh3_64_digest

    data[16:24] = xxh3_64_digest(bytes(data[:16]) + bytes(data[24:]))
    path.write_bytes(data)
    before = contents(store)
    with pytest.raises(walkv.FormatError) as caught:
        walkv.open(store)
    assert caught.value.path == str(path)
    assert (caught.value.found_version, caught.value.supported) == (3, (1, 2))
    assert contents(store) == before


def test_a_segment_of_a_newer_format_is_a_format_error(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    path = tail_of(store)
    from xxhash import xxh3_64_digest

    for at, value in ((8, 2), (12, 1)):  # the format, and a feature bit that is not known
        original = path.read_bytes()
        data = bytearray(original)
        data[at : at + 4] = value.to_bytes(4, "little")
        data[56:64] = xxh3_64_digest(bytes(data[:56]))
        path.write_bytes(data)
        with pytest.raises(walkv.FormatError) as caught:
            walkv.open(store)
        assert caught.value.path == str(path)
        assert caught.value.found_version == (2 if at == 8 else 1)
        path.write_bytes(original)
    walkv.open(store).close()


def test_a_valid_frame_that_does_not_continue_or_decode_is_damage(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    path = tail_of(store)
    end = offsets(path)[-1]
    data = path.read_bytes()[:end]
    file = FS.open(str(path))
    salt = segment.read_header(file, manifest.read(FS, str(store)).store_id).salt

    def appended(payload: bytes, count: int, first: int, kind: int = frame.COMMIT) -> bytes:
        return data + frame.encode(
            payload,
            salt=salt,
            offset=end,
            operation_count=count,
            first_sequence=first,
            time_ns=0,
            synced_offset=0,
            kind=kind,
        )

    good = bytes([0x92, 0xC4, 1, 0x61, 0xC0])  # delete b"a"
    for payload, count, first in (
        (good, 1, 7),  # a sequence is left out
        (good, 1, 5),  # a sequence comes twice
        (good, 2, 6),  # one operation, and the header says two
        (good, 0, 6),
        (b"\x93", 1, 6),
        (b"\xc1", 1, 6),
        (b"\x90", 1, 6),
        (bytes([0x92, 0xC4, 0, 0xC0]), 1, 6),  # an empty key
    ):
        path.write_bytes(appended(payload, count, first))
        assert refuses(store, "log", path.name).offset_bytes == end
    path.write_bytes(appended(b"\0", 1, 6, frame.SYNC_MARKER))
    refuses(store, "log", path.name)
    path.write_bytes(appended(good, 1, 6))
    with walkv.open(store) as opened:
        assert opened.stats().last_sequence >= 6


def test_a_manifest_without_segments_is_damage(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    known = manifest.read(FS, str(store))
    manifest.write(FS, str(store), known.next(segments=()))
    refuses(store, "MANIFEST")


def test_looking_writes_nothing(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    tail = tail_of(store)
    tail.write_bytes(tail.read_bytes()[: offsets(tail)[-1]] + b"torn")
    (store / "MANIFEST.tmp").write_bytes(b"left over")
    before = listing(store)
    fs = HookedFileSystem()
    findings = recovery.look(fs, str(store), BlockCache(1 << 20))
    assert listing(store) == before
    assert {operation for operation, _ in fs.calls} == {"open"}
    assert findings.tail.torn
    assert findings.tail.cut_bytes == 4
    assert findings.last_sequence == 5
    assert findings.unknown_files == [str(store / "MANIFEST.tmp")]


def test_cut_bytes_are_durable_elsewhere_before_they_are_cut(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    tail = tail_of(store)
    tail.write_bytes(tail.read_bytes()[: offsets(tail)[-1]] + b"torn")
    fs = HookedFileSystem()
    walkv.open(store, filesystem=fs).close()
    steps = [(operation, os.path.relpath(path, store)) for operation, path in fs.calls]
    cut = steps.index(("truncate", f"log/{tail.name}"))
    (saved,) = (store / "quarantine").iterdir()
    assert steps.index(("sync", f"quarantine/{saved.name}")) < cut
    assert ("sync_directory", "quarantine") in steps[:cut]
    assert ("sync", f"log/{tail.name}") in steps[cut:]


def test_recovery_may_be_interrupted_at_every_step(tmp_path: Path) -> None:
    original = left_by_kill(tmp_path)
    tail = tail_of(original)
    tail.write_bytes(tail.read_bytes()[: offsets(tail)[-1]] + b"torn")
    fs = HookedFileSystem()
    shutil.copytree(original, tmp_path / "count")
    opened = walkv.open(tmp_path / "count", filesystem=fs)
    steps = len(fs.calls)
    opened.close()
    assert steps > 20
    for step in range(steps):
        left = step

        def stop(operation: str, path: str) -> None:
            nonlocal left
            if operation not in ("read", "size", "list"):
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1

        copy = tmp_path / str(step)
        shutil.copytree(original, copy)
        with pytest.raises(KeyboardInterrupt):
            walkv.open(copy, filesystem=HookedFileSystem(hook=stop))
        with walkv.open(copy) as opened:
            assert list(opened.scan()) == expected(5)
            opened.put(b"k5", b"v5")
        with walkv.open(copy) as opened:
            assert list(opened.scan()) == expected(6)
            assert opened.recovery_report.clean
        saved = [path.read_bytes() for path in (copy / "quarantine").iterdir()]
        # What an interrupted attempt had saved in part is left beside the whole.
        assert b"torn" in saved
        shutil.rmtree(copy)


def test_losing_the_race_against_a_creating_process_is_a_locked_error(tmp_path: Path) -> None:
    for read_only in (False, True):
        path = tmp_path / str(read_only)
        (path / "log").mkdir(parents=True)
        rivals: list[walkv.Store] = []

        def create_meanwhile(
            operation: str, met: str, path: Path = path, rivals: list[walkv.Store] = rivals
        ) -> None:
            if operation == "list" and met.endswith("/log") and not rivals:
                rivals.append(walkv.open(path))
                rivals[0].put(b"k", b"v")

        fs = HookedFileSystem(hook=create_meanwhile)
        if read_only:
            with walkv.open(path, filesystem=fs, read_only=True) as reader:
                assert reader[b"k"] == b"v"
        else:
            with pytest.raises(walkv.LockedError):
                walkv.open(path, filesystem=fs)
        rivals[0].close()


def test_an_empty_manifest_names_itself(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    (store / "MANIFEST").write_bytes(b"")
    assert refuses(store, "MANIFEST").found == 0


def test_manifest_records_match_what_is_there(tmp_path: Path) -> None:
    store = left_by_kill(tmp_path)
    with walkv.open(store) as opened:
        opened.compact()
        known: Manifest = manifest.read(FS, str(store))
        assert [segment.file_name(first) for first in known.segments] == os.listdir(store / "log")
        assert known.last_sequence == known.segments[0] - 1 >= 5
        assert [s.entry_count for s in known.snapshots] == [5]
        (path,) = (store / "snapshots").iterdir()
        assert known.snapshots[0].size_bytes == path.stat().st_size
