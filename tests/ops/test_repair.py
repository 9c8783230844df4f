"""Repair: all that can be read is saved, nothing is invented, and the report names every loss."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import walkv
from tests.ops.repair_help import (
    Files,
    Original,
    build,
    changed,
    contents,
    damage,
    frames_of,
    lay_out,
    without,
    wrongs,
)
from walkv.engine import frame, manifest, segment
from walkv.engine.snapshot import BlockCache, SnapshotReader, SnapshotWriter, layout
from walkv.engine.vfs import OsFileSystem
from walkv.ops import Damage, RepairReport, repair
from walkv.ops.repairing import medium, merging, pages, snapshots, targets
from walkv.ops.repairing.merging import Deletions, LogEntries
from walkv.ops.repairing.segments import Commit

Repair = Callable[[Files], tuple[RepairReport, dict[bytes, bytes]]]


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


@pytest.fixture
def repaired(tmp_path: Path) -> Repair:
    """Repair files, see that they are as they were, and give the report and what was saved."""

    def run(files: Files) -> tuple[RepairReport, dict[bytes, bytes]]:
        source = lay_out(files, tmp_path / "source")
        target = tmp_path / "target"
        report = repair(source, target)
        found = {str(p.relative_to(source)): p for p in source.rglob("*") if p.is_file()}
        assert {name: path.read_bytes() for name, path in found.items()} == files
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".repairing")]
        saved = contents(target)
        assert sorted(os.listdir(target)) == ["LOCK", "MANIFEST", "log", "quarantine", "snapshots"]
        shutil.rmtree(target)
        return report, saved

    return run


@pytest.fixture
def original() -> Original:
    return build()


def flipped(files: Files, name: str, offset: int) -> Files:
    return changed(files, name, lambda data: data.__setitem__(offset, data[offset] ^ 16))


def zeroed(files: Files, name: str, start: int, stop: int) -> Files:
    return changed(files, name, lambda d: d.__setitem__(slice(start, stop), bytes(stop - start)))


def root_of(original: Original, name: str, tmp_path: Path) -> tuple[Any, layout.SnapshotFooter]:
    path = tmp_path / Path(name).name
    path.write_bytes(original.files[name])
    store_id = original.files[name][16:32]
    number = layout.parse_file_name(path.name)
    reader = SnapshotReader(OsFileSystem(), str(path), store_id, number, BlockCache(0))
    path.unlink()
    return reader._root, reader._footer


def only_loss(report: RepairReport) -> Damage:
    (damage,) = report.losses
    return damage


def held(original: Original, report: RepairReport, saved: dict[bytes, bytes]) -> None:
    assert list(wrongs(original, saved, report)) == []


class TestWhole:
    def test_nothing_is_missing(self, repaired: Repair, original: Original) -> None:
        report, saved = repaired(original.files)
        assert saved == original.final
        assert report.complete
        assert (report.damages, report.warnings, report.mended) == ((), (), ())
        assert report.last_sequence == original.last_sequence
        assert report.entry_count == len(saved)
        assert {each.state for each in report.files} == {"whole"}
        assert "nothing is known to be missing" in str(report)

    def test_sequences_expiry_and_the_time_of_making_stay(
        self, original: Original, tmp_path: Path
    ) -> None:
        source = lay_out(original.files, tmp_path / "source")
        repair(source, tmp_path / "target")
        old, new = (manifest.read(OsFileSystem(), str(tmp_path / n)) for n in ("source", "target"))
        assert new.created_ns == old.created_ns
        assert new.store_id != old.store_id
        with walkv.open(source) as before, walkv.open(tmp_path / "target") as after:
            for key in original.final:
                assert after.get_versioned(key) == before.get_versioned(key)
            entry = after.engine.entry(b"long")
            assert entry is not None
            assert entry == before.engine.entry(b"long")
            assert entry[2] > 0
            after.put(b"new", b"1")
            version = after.get_versioned(b"new")[1]
            assert version is not None
            assert version > original.last_sequence

    def test_files_that_the_manifest_does_not_name_are_left_out(
        self, repaired: Repair, original: Original
    ) -> None:
        left_over = {
            "snapshots/0000000099.snap": original.files[original.snapshots[0]],
            "log/00000000000000009999.wal": b"",
            "MANIFEST.tmp": b"x",
        }
        report, saved = repaired({**original.files, **left_over})
        assert saved == original.final
        assert report.complete

    def test_kept_segments_are_left_alone(self, repaired: Repair) -> None:
        original = build(keep=True)
        report, saved = repaired(original.files)
        assert saved == original.final
        assert report.complete
        assert report.operation_count == original.last_sequence - 600


class TestLog:
    def test_a_damaged_frame(self, repaired: Repair, original: Original) -> None:
        name = original.segments[1]
        (start, bad), (after, following) = frames_of(original.files[name])[3:5]
        report, saved = repaired(flipped(original.files, name, start + 50))
        loss = only_loss(report)
        assert (loss.path, loss.part) == (name, "frames")
        assert (loss.offset_bytes, loss.size_bytes) == (start, after - start)
        assert (loss.first_sequence, loss.last_sequence) == (
            bad.first_sequence,
            following.first_sequence - 1,
        )
        held(original, report, saved)
        assert f"sequences {bad.first_sequence} to" in str(report)

    def test_frames_behind_a_gap_are_saved(self, repaired: Repair, original: Original) -> None:
        name = original.segments[1]
        places = frames_of(original.files[name])
        report, saved = repaired(zeroed(original.files, name, places[2][0] + 1, places[9][0] - 1))
        loss = only_loss(report)
        assert loss.last_sequence == places[9][1].first_sequence - 1
        held(original, report, saved)
        assert saved[b"log/11"] == original.final[b"log/11"]

    def test_a_lost_marker_costs_nothing(self, repaired: Repair, original: Original) -> None:
        name = original.segments[1]
        start, seal = frames_of(original.files[name])[-1]
        assert seal.kind == frame.SEAL
        report, saved = repaired(flipped(original.files, name, start))
        assert report.complete
        assert saved == original.final
        assert [(d.path, d.part, d.lost) for d in report.damages] == [(name, "frames", False)]

    def test_a_torn_tail_is_no_loss_and_is_cut_as_recovery_does(
        self, repaired: Repair, original: Original, tmp_path: Path
    ) -> None:
        name = original.segments[-1]
        start, _ = frames_of(original.files[name])[-1]
        files = changed(original.files, name, lambda d: d.__delitem__(slice(start + 60, None)))
        report, saved = repaired(files)
        assert [(d.part, d.offset_bytes, d.lost) for d in report.damages] == [
            ("torn tail", start, False)
        ]
        assert report.complete
        with walkv.open(lay_out(files, tmp_path / "opened")) as store:
            assert dict(store.scan()) == saved

    def test_a_damaged_durable_frame_of_the_tail(
        self, repaired: Repair, original: Original
    ) -> None:
        name = original.segments[-1]
        start, bad = frames_of(original.files[name])[2]
        report, saved = repaired(flipped(original.files, name, start + 20))
        assert only_loss(report).first_sequence == bad.first_sequence
        held(original, report, saved)

    def test_bytes_behind_a_seal(self, repaired: Repair, original: Original) -> None:
        name = original.segments[0]
        report, saved = repaired(changed(original.files, name, lambda d: d.extend(b"junk")))
        assert report.complete
        assert saved == original.final
        assert [d.reason for d in report.damages] == ["bytes follow the seal"]

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_missing_segment(self, repaired: Repair, original: Original, number: int) -> None:
        name = original.segments[number]
        report, saved = repaired(without(original.files, name))
        loss = only_loss(report)
        assert (loss.path, loss.part) == (name, "segment")
        assert loss.first_sequence == segment.parse_file_name(Path(name).name)
        assert (loss.last_sequence is None) == (number == 2)
        held(original, report, saved)
        assert ("missing", name) in [(each.state, each.path) for each in report.files]

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_missing_segment_without_a_manifest(
        self, repaired: Repair, original: Original, number: int
    ) -> None:
        files = without(original.files, "MANIFEST", original.segments[number + 1])
        report, saved = repaired(files)
        assert report.warnings
        if number == 0:  # the seal of the one before names it; nothing names the newest
            assert (only_loss(report).path, only_loss(report).part) == (
                original.segments[1],
                "segment",
            )
            held(original, report, saved)

    def test_a_segment_that_is_cut_short(self, repaired: Repair, original: Original) -> None:
        name = original.segments[1]
        places = frames_of(original.files[name])
        for at in (places[4][0], places[4][0] + 9):
            files = {**original.files, name: original.files[name][:at]}
            report, saved = repaired(files)
            assert only_loss(report).first_sequence == places[4][1].first_sequence
            held(original, report, saved)

    def test_a_valid_frame_that_does_not_decode(self, repaired: Repair, original: Original) -> None:
        name = original.segments[1]
        data = original.files[name]
        start, bad = frames_of(data)[3]
        salt = int.from_bytes(data[32:40], "little")
        forged = frame.encode(
            b"\xc1" * len(bad.payload),
            salt=salt,
            offset=start,
            operation_count=bad.operation_count,
            first_sequence=bad.first_sequence,
            time_ns=0,
            synced_offset=0,
        )
        report, saved = repaired(
            {**original.files, name: data[:start] + forged + data[bad.end_offset :]}
        )
        assert "does not decode" in only_loss(report).reason
        assert only_loss(report).size_bytes == len(forged)
        held(original, report, saved)


class TestHeaders:
    @pytest.mark.parametrize("bit", range(0, 512, 17))
    def test_one_flipped_bit_is_mended(
        self, repaired: Repair, original: Original, bit: int
    ) -> None:
        name = (original.segments[1], original.snapshots[0])[bit % 2]
        files = changed(
            original.files, name, lambda d: d.__setitem__(bit // 8, d[bit // 8] ^ 1 << bit % 8)
        )
        report, saved = repaired(files)
        assert report.complete
        assert saved == original.final
        assert [d.part for d in report.damages] == ["header"]

    def test_one_flipped_bit_with_nothing_behind_it(
        self, repaired: Repair, original: Original
    ) -> None:
        """The header alone proves which bit it is: here no frame is valid."""
        name = original.segments[0]
        files = {**original.files, name: original.files[name][:64] + bytes(9)}
        report, _ = repaired(flipped(files, name, 35))
        assert [d.part for d in report.damages] == ["header", "frames"]

    @pytest.mark.parametrize("kind", ["segments", "snapshots"])
    def test_all_but_the_salt(self, repaired: Repair, original: Original, kind: str) -> None:
        name = getattr(original, kind)[1]
        files = zeroed(zeroed(original.files, name, 0, 32), name, 40, 64)
        report, saved = repaired(files)
        assert report.complete
        assert saved == original.final

    @pytest.mark.parametrize("kind", ["segments", "snapshots"])
    def test_a_damaged_byte_of_the_salt(
        self, repaired: Repair, original: Original, kind: str
    ) -> None:
        name = getattr(original, kind)[1]
        report, saved = repaired(
            changed(original.files, name, lambda d: d.__setitem__(37, d[37] ^ 0x5A))
        )
        assert report.complete
        assert saved == original.final

    @pytest.mark.parametrize("kind", ["segments", "snapshots"])
    def test_a_lost_salt_is_a_lost_file(
        self, repaired: Repair, original: Original, kind: str
    ) -> None:
        name = getattr(original, kind)[1]
        report, saved = repaired(zeroed(original.files, name, 0, 64))
        loss = only_loss(report)
        assert (loss.path, loss.size_bytes) == (name, len(original.files[name]))
        held(original, report, saved)

    def test_a_newer_format_is_refused(self, original: Original, tmp_path: Path) -> None:
        name = original.snapshots[0]
        header = layout.decode_header(original.files[name][:64], name)
        encoded = bytearray(header.encode())
        encoded[8] = 9
        encoded[56:] = layout.xxh3_64_digest(bytes(encoded[:56]))
        files = changed(original.files, name, lambda d: d.__setitem__(slice(0, 64), encoded))
        with pytest.raises(walkv.FormatError):
            repair(lay_out(files, tmp_path / "source"), tmp_path / "target")
        assert os.listdir(tmp_path) == ["source"]


class TestSnapshots:
    def test_a_damaged_data_page(
        self, repaired: Repair, original: Original, tmp_path: Path
    ) -> None:
        name = original.snapshots[0]
        root, _ = root_of(original, name, tmp_path)
        report, saved = repaired(flipped(original.files, name, root.offsets[0] + 100))
        loss = only_loss(report)
        assert (loss.path, loss.part, loss.offset_bytes) == (name, "data page", 64)
        assert loss.first_key == root.first_keys[0]
        assert loss.stop_key is not None
        assert 0 < len(original.final.items() - saved.items()) < 100
        held(original, report, saved)
        damaged = next(each for each in report.files if each.path == name)
        assert damaged.expected_count is not None
        assert damaged.saved_count < damaged.expected_count

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_damaged_index_page_costs_nothing(
        self, repaired: Repair, original: Original, tmp_path: Path, number: int
    ) -> None:
        name = original.snapshots[number]
        root, _ = root_of(original, name, tmp_path)
        offset = root.offsets[0] + root.data_lengths[0]
        report, saved = repaired(flipped(original.files, name, offset + 30))
        assert report.complete
        assert saved == original.final
        assert [(d.part, d.offset_bytes) for d in report.damages] == [("index page", offset)]

    def test_data_pages_behind_a_damaged_one_without_an_index(
        self, repaired: Repair, original: Original, tmp_path: Path
    ) -> None:
        name = original.snapshots[0]
        root, _ = root_of(original, name, tmp_path)
        end = root.offsets[0] + root.data_lengths[0]
        files = zeroed(flipped(original.files, name, end + 30), name, 5_000, 5_200)
        report, saved = repaired(files)
        loss = only_loss(report)
        assert loss.offset_bytes <= 5_000 < loss.offset_bytes + loss.size_bytes < end
        assert loss.first_key is not None
        assert loss.stop_key is not None
        held(original, report, saved)
        assert len(original.final.items() - saved.items()) < 200

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_damaged_root(
        self, repaired: Repair, original: Original, tmp_path: Path, number: int
    ) -> None:
        name = original.snapshots[number]
        _, footer = root_of(original, name, tmp_path)
        report, saved = repaired(flipped(original.files, name, footer.root_offset + 20))
        held(original, report, saved)
        if number == 0:  # there is nothing below it that deleted ranges could hide
            assert report.complete
        else:
            assert [d.part for d in report.losses] == ["deleted ranges"]

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_damaged_footer_costs_nothing(
        self, repaired: Repair, original: Original, number: int
    ) -> None:
        name = original.snapshots[number]
        report, saved = repaired(flipped(original.files, name, len(original.files[name]) - 30))
        assert report.complete
        assert saved == original.final
        assert [d.part for d in report.damages] == ["footer"]

    def test_a_snapshot_that_is_cut_short(self, repaired: Repair, original: Original) -> None:
        name = original.snapshots[0]
        size = len(original.files[name])
        for at in (size - 64, size - 65, size // 2, 64, 10, 0):
            report, saved = repaired({**original.files, name: original.files[name][:at]})
            held(original, report, saved)
            assert not report.complete or at == size - 64

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_missing_snapshot(self, repaired: Repair, original: Original, number: int) -> None:
        name = original.snapshots[number]
        report, saved = repaired(without(original.files, name))
        assert (only_loss(report).path, only_loss(report).part) == (name, "snapshot")
        held(original, report, saved)

    def test_all_snapshots_are_missing(self, repaired: Repair, original: Original) -> None:
        report, saved = repaired(without(original.files, *original.snapshots))
        assert len(report.losses) == 3
        held(original, report, saved)
        assert b"log/11" in saved

    def test_what_looks_like_a_page_inside_a_value_is_none(self, tmp_path: Path) -> None:
        """A whole snapshot as a value, in a page whose index is gone."""
        inner = build().files[build().snapshots[0]]
        fs = OsFileSystem()
        writer = SnapshotWriter(fs, str(tmp_path), bytes(16), 1)
        writer.add([b"a", b"b", b"c"], [b"1", inner, b"3"], [1, 2, 3], True)
        writer.finish()
        data = bytearray(Path(writer.path).read_bytes())
        data[200] ^= 1
        data[-100] ^= 1
        Path(writer.path).write_bytes(data)
        salt = int.from_bytes(data[32:40], "little")
        found = snapshots.survey(1, "x", pages.PageFile(fs.open(writer.path), salt), lambda n: None)
        assert {key for key, _, _ in found.entries()} <= {b"a", b"c"}

    def test_a_search_gives_up_in_the_end(self, tmp_path: Path) -> None:
        """Many places that look like a long page: each would be hashed as a whole."""
        fake = b"\0" * 8 + b"\1\0\0\0" + (1_000_000).to_bytes(4, "little") + b"\x93"
        (tmp_path / "x").write_bytes(fake * 200_000)
        file = pages.PageFile(OsFileSystem().open(str(tmp_path / "x")), 1)
        asked: list[int] = []
        looked = file.page
        file.page = lambda *place: asked.append(place[2]) or looked(*place)  # type: ignore
        (gap,) = file.walk(64, file.size)
        assert isinstance(gap, pages.Gap)
        assert gap.size_bytes == file.size - 64
        assert sum(asked) < 17 * file.size + (1 << 27)


class TestManifest:
    @pytest.mark.parametrize("how", ["gone", "bit", "zeros", "empty", "version", "no version"])
    def test_without_it_the_files_say_what_they_are(
        self, repaired: Repair, original: Original, how: str
    ) -> None:
        files = {
            "gone": lambda: without(original.files, "MANIFEST"),
            "bit": lambda: flipped(original.files, "MANIFEST", 40),
            "zeros": lambda: zeroed(original.files, "MANIFEST", 0, 100),
            "empty": lambda: {**original.files, "MANIFEST": b""},
            "no version": lambda: zeroed(original.files, "MANIFEST", 8, 30),
            "version": lambda: changed(
                original.files, "MANIFEST", lambda d: d.__setitem__(slice(8, 30), b"x" * 22)
            ),
        }[how]()
        report, saved = repaired(files)
        assert saved == original.final
        assert report.complete
        assert [(d.path, d.part) for d in report.damages] == [("MANIFEST", "manifest")]
        assert report.warnings

    def test_a_folder_in_its_place(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(without(original.files, "MANIFEST"), tmp_path / "source")
        (source / "MANIFEST").mkdir()
        assert repair(source, tmp_path / "target").complete
        assert contents(tmp_path / "target") == original.final

    def test_one_that_is_older_than_the_log(self, repaired: Repair, original: Original) -> None:
        known = manifest.decode(original.files["MANIFEST"], "")
        older = known.next(segments=known.segments[:-1])
        report, saved = repaired({**original.files, "MANIFEST": manifest.encode(older)})
        assert saved == original.final
        assert "older than the log" in report.damages[0].reason

    def test_a_newer_format_is_refused(self, original: Original, tmp_path: Path) -> None:
        files = changed(original.files, "MANIFEST", lambda d: d.__setitem__(8, 3))
        files = changed(files, "MANIFEST", lambda d: d.__setitem__(30, d[30] ^ 1))
        with pytest.raises(walkv.FormatError) as caught:
            repair(lay_out(files, tmp_path / "source"), tmp_path / "target")
        assert caught.value.found_version == 3

    def test_inputs_of_a_merge_are_known_without_it(
        self, repaired: Repair, original: Original, tmp_path: Path
    ) -> None:
        """They hold what the merge has dropped: deleted entries must not come back."""
        source = lay_out(original.files, tmp_path / "merged")
        with walkv.open(source) as store:
            store.compact()
        merged = {
            str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*") if p.is_file()
        }
        inputs = {name: original.files[name] for name in original.snapshots}
        report, saved = repaired(without({**merged, **inputs}, "MANIFEST"))
        assert saved == original.final
        assert sum("was made of it" in warning for warning in report.warnings) == 3

    def test_a_file_of_another_store_is_not_used(
        self, repaired: Repair, original: Original
    ) -> None:
        other = build(seed=8)
        files = without(original.files, "MANIFEST", original.snapshots[2])
        files[original.snapshots[2]] = other.files[other.snapshots[2]]
        report, saved = repaired(files)
        assert any("another store" in warning for warning in report.warnings)
        assert saved.keys() <= original.versions.keys()

    def test_files_under_each_others_names(self, repaired: Repair, original: Original) -> None:
        one, two = original.snapshots[:2]
        files = {**original.files, one: original.files[two], two: original.files[one]}
        report, saved = repaired(files)
        assert saved == original.final
        assert report.complete


class TestKept:
    """Kept segments have what snapshots have lost."""

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_missing_snapshot_costs_nothing(self, repaired: Repair, number: int) -> None:
        original = build(keep=True)
        report, saved = repaired(without(original.files, original.snapshots[number]))
        assert saved == original.final
        assert report.complete
        assert "saved from kept segments" in report.damages[0].reason

    def test_a_damaged_page_costs_nothing(self, repaired: Repair) -> None:
        original = build(keep=True)
        report, saved = repaired(zeroed(original.files, original.snapshots[0], 2_000, 20_000))
        assert saved == original.final
        assert report.complete
        assert len(report.damages) > 1

    def test_lost_deleted_ranges_cost_nothing(self, repaired: Repair, tmp_path: Path) -> None:
        original = build(keep=True)
        _, footer = root_of(original, original.snapshots[1], tmp_path)
        offset = footer.root_offset
        report, saved = repaired(flipped(original.files, original.snapshots[1], offset + 20))
        assert saved == original.final
        assert report.complete

    def test_what_they_do_not_reach_back_to_is_missing(self, repaired: Repair) -> None:
        original = build(keep=True)
        gone = original.kept[:3]
        files = without(original.files, *gone, original.snapshots[0])
        report, saved = repaired(files)
        loss = only_loss(report)
        begins = segment.parse_file_name(Path(original.kept[3]).stem + ".wal")
        assert (loss.first_sequence, loss.last_sequence) == (1, begins - 1)
        held(original, report, saved)

    def test_a_damaged_one_is_used_as_far_as_it_goes(self, repaired: Repair) -> None:
        original = build(keep=True)
        name = original.kept[2]
        files = zeroed(original.files, name, 3_000, 3_500)
        report, saved = repaired(files)
        assert report.complete  # nobody has looked at it
        report, saved = repaired(without(files, original.snapshots[0]))
        held(original, report, saved)
        assert not report.complete
        assert len(original.final.items() - saved.items()) < 20
        report, _ = repaired(zeroed(without(files, original.snapshots[0]), name, 0, 64))
        assert not report.complete

    def test_deleted_ranges_of_snapshots_hold_for_what_is_kept(self, repaired: Repair) -> None:
        """The range was deleted in a kept segment that is lost, and is in a newer snapshot."""
        original = build(keep=True)
        end = len(original.files[original.snapshots[0]])
        files = zeroed(original.files, original.snapshots[0], end - 9_000, end)
        report, saved = repaired(without(files, original.kept[-1]))
        assert original.versions[b"range/1"][-1][0] > 502
        held(original, report, saved)
        assert not {b"range/1", b"range/2"} & saved.keys()
        assert b"range/3" in saved

    def test_older_does_not_win_over_newer(self, repaired: Repair) -> None:
        """A kept segment with a put, a snapshot with the deletion, and a gap between."""
        original = build(keep=True)
        (gone,) = (versions for key, versions in original.versions.items() if key == b"gone")
        assert gone[-1][1] is None
        files = without(original.files, original.snapshots[0], *original.kept[4:7])
        report, saved = repaired(files)
        held(original, report, saved)
        assert b"gone" not in saved


class TestSweep:
    @pytest.mark.parametrize("keep", [False, True])
    @pytest.mark.parametrize("part", range(4))
    def test_whatever_is_damaged(self, repaired: Repair, keep: bool, part: int) -> None:
        original = build(keep)
        rng = random.Random(f"{keep} {part}")
        lossy = 0
        for _ in range(25):
            files = dict(original.files)
            damages = [damage(files, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            if not any(name.endswith((".wal", ".snap")) for name in files):
                continue
            report, saved = repaired(files)
            wrong = list(wrongs(original, saved, report, files))
            if "MANIFEST" not in files or any(d.path == "MANIFEST" for d in report.damages):
                # A file that went with the manifest is missed by nobody.
                wrong = [each for each in wrong if each.startswith("invented")]
            assert wrong == [], damages
            lossy += not report.complete
        assert lossy

    @pytest.mark.parametrize("part", range(3))
    def test_what_opens_is_repaired_to_what_opening_gives(
        self, repaired: Repair, original: Original, part: int, tmp_path: Path
    ) -> None:
        rng = random.Random(part)
        opened = 0
        for _ in range(20):
            files = dict(original.files)
            for _ in range(2):
                name = original.segments[-1]
                damage({name: files[name]}, rng, files)
            source = lay_out(files, tmp_path / "opened")
            try:
                with walkv.open(source) as store:
                    expected = dict(store.scan())
            except walkv.WalkvError:
                continue
            opened += 1
            assert repaired(files)[1] == expected
        assert opened > 3


class TestMerging:
    def test_runs_that_do_not_fit_are_sorted_on_disk(self, tmp_path: Path) -> None:
        rng = random.Random(5)
        scratch = str(tmp_path / "scratch")
        small, large = (LogEntries(OsFileSystem(), scratch, most) for most in (5_000, 1 << 30))
        sequence = 1
        for _ in range(300):
            operations: list[Any] = []
            for _ in range(rng.randrange(1, 4)):
                key = b"%03d" % rng.randrange(200)
                item = rng.choice((rng.randbytes(5), None, [1 << 50, b"x"]))
                operations += [key, item] if rng.random() < 0.9 else [[key, key + b"9"], None]
            small.add(Commit(sequence, operations))
            large.add(Commit(sequence, operations))
            sequence += len(operations) // 2
        assert len(os.listdir(scratch)) > 3
        both = [
            list(merging.merged(log.runs(), [], Deletions(log.deletions))) for log in (small, large)
        ]
        assert both[0] == both[1]
        assert len(both[0]) > 50
        assert small.operation_count == sequence - 1

    def test_deletions(self) -> None:
        rng = random.Random(3)
        ranges = []
        for sequence in range(1, 60):
            low, high = sorted((rng.randrange(100), rng.randrange(100)))
            stop = None if rng.random() < 0.1 else b"%02d" % (high + 1)
            ranges.append((sequence, b"%02d" % low, stop))
        rng.shuffle(ranges)
        found = Deletions(ranges)
        for number in range(100):
            key = b"%02d" % number
            covering = [s for s, low, stop in ranges if low <= key and (not stop or key < stop)]
            assert found.newest(key) == max(covering, default=0)
        assert Deletions([]).newest(b"x") == 0


class TestRefusals:
    def test_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            repair(tmp_path / "none", tmp_path / "target")
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError):
            repair(tmp_path / "empty", tmp_path / "target")
        (tmp_path / "file").write_text("x")
        with pytest.raises(walkv.FormatError):
            repair(tmp_path / "file", tmp_path / "target")
        assert sorted(os.listdir(tmp_path)) == ["empty", "file"]

    def test_a_target_that_is_there(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        target = tmp_path / "target"
        target.mkdir()
        (target / "x").touch()
        with pytest.raises(FileExistsError):
            repair(source, target)
        assert os.listdir(target) == ["x"]
        (target / "x").unlink()
        assert repair(source, target).complete

    def test_a_target_inside_the_source(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        (tmp_path / "link").symlink_to(source)
        for target in (source, source / "new", tmp_path / "link" / "new"):
            with pytest.raises(ValueError, match="outside of it"):
                repair(source, target)

    def test_a_store_that_is_open(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        with walkv.open(source), pytest.raises(walkv.LockedError) as caught:
            repair(source, tmp_path / "target")
        assert caught.value.pid == os.getpid()
        assert os.listdir(tmp_path) == ["source"]

    def test_nobody_opens_it_meanwhile(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        with medium.held(str(source)), pytest.raises(walkv.LockedError):
            walkv.open(source)
        walkv.open(source).close()

    def test_a_file_that_may_not_be_read(
        self, original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not damage, and not to be passed over."""
        source = lay_out(original.files, tmp_path / "source")
        opened = os.open

        def refuse(path: Any, *rest: Any, **more: Any) -> int:
            if str(path).endswith(original.snapshots[0]):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return opened(path, *rest, **more)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(PermissionError):
            repair(source, tmp_path / "target")
        assert os.listdir(tmp_path) == ["source"]


class TestMedium:
    def test_a_read_only_medium(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        for path in [*source.rglob("*"), source]:
            path.chmod(stat.S_IREAD | (stat.S_IEXEC if path.is_dir() else 0))
        try:
            assert repair(source, tmp_path / "target").complete
        finally:
            for path in [source, *source.rglob("*")]:
                path.chmod(0o755)

    def test_a_store_without_a_lock_file(self, repaired: Repair, original: Original) -> None:
        assert repaired(without(original.files, "LOCK"))[0].complete

    def test_sectors_that_cannot_be_read(
        self, original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = lay_out(original.files, tmp_path / "source")
        bad = os.stat(source / original.snapshots[0]).st_ino
        read = os.pread

        def pread(descriptor: int, size: int, offset: int) -> bytes:
            if os.fstat(descriptor).st_ino == bad and offset < 8192 < offset + size + 4096:
                raise OSError(errno.EIO, "Input/output error")
            return read(descriptor, size, offset)

        monkeypatch.setattr(os, "pread", pread)
        report = repair(source, tmp_path / "target")
        monkeypatch.undo()
        assert {d.path for d in report.losses} == {original.snapshots[0]}
        saved = contents(tmp_path / "target")
        held(original, report, saved)
        assert 0 < len(original.final.items() - saved.items()) < 200


class TestTarget:
    def test_a_failure_leaves_nothing(
        self, original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = lay_out(original.files, tmp_path / "source")
        calls = 0

        def pwrite(*arguments: Any) -> int:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return written(*arguments)

        written = os.pwrite
        for fail_at in (2, 3, 4):  # the snapshot, the header of the log, the manifest
            calls = 0
            monkeypatch.setattr(os, "pwrite", pwrite)
            with pytest.raises((OSError, walkv.WalkvError)):
                repair(source, tmp_path / "target")
            monkeypatch.setattr(os, "pwrite", written)
            assert os.listdir(tmp_path) == ["source"], fail_at
        assert repair(source, tmp_path / "target").complete

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
    def test_a_kill_leaves_nothing_that_looks_whole(
        self, original: Original, tmp_path: Path, share: float
    ) -> None:
        source = lay_out(original.files, tmp_path / "source")
        target = tmp_path / "target"
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_killed, args=(source, target, share))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not target.exists()
        assert (tmp_path / ".target.repairing" / "LOCK").exists()
        assert repair(source, target).complete
        assert contents(target) == original.final
        assert sorted(os.listdir(tmp_path)) == ["source", "target"]

    def test_two_at_once(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        with targets.building(str(tmp_path / "target")) as building:
            with pytest.raises(walkv.LockedError):
                repair(source, tmp_path / "target")
            assert os.path.isdir(building.directory)

    def test_what_is_not_ours_is_never_removed(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        mine = tmp_path / ".target.repairing"
        mine.mkdir()
        (mine / "precious").touch()
        with pytest.raises(FileExistsError):
            repair(source, tmp_path / "target")
        assert os.listdir(mine) == ["precious"]

    def test_progress(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(original.files, tmp_path / "source")
        seen: list[tuple[int, int]] = []
        repair(source, tmp_path / "target", progress=lambda *step: seen.append(step))
        assert seen == sorted(seen)
        assert len({total for _, total in seen}) == 1
        assert seen[-1][0] == seen[-1][1] > 3 * 40_000


def _killed(source: Path, target: Path, share: float) -> None:
    def die(done: int, total: int) -> None:
        if done >= share * total:
            os.kill(os.getpid(), signal.SIGKILL)

    repair(source, target, progress=die)


class TestReport:
    def test_as_json(self, repaired: Repair, original: Original, tmp_path: Path) -> None:
        report, _ = repaired(flipped(original.files, original.snapshots[0], 200))
        fields = json.loads(json.dumps(report.as_dict()))
        assert fields["complete"] is False
        (damage,) = fields["damages"]
        assert damage["first_key"].startswith("gone")
        assert damage["lost"] is True
        assert {each["path"] for each in fields["files"]} >= set(original.snapshots)

    def test_keys_that_are_no_text(self) -> None:
        damage = Damage("f", "data page", "bad", first_key=b"\xff\0", stop_key=None)
        fields = RepairReport("a", "b", damages=(damage,)).as_dict()
        assert fields["damages"][0]["first_key"] == {"base64": "/wA="}
        assert fields["damages"][0]["stop_key"] is None


def test_the_lock_is_a_shared_one(tmp_path: Path) -> None:
    """Two repairs of one store to two targets do each other no harm."""
    (tmp_path / "LOCK").touch()
    with medium.held(str(tmp_path)), medium.held(str(tmp_path)):
        descriptor = os.open(tmp_path / "LOCK", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
