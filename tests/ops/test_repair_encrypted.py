"""Repair of encrypted stores: as of others, with the key, and nothing of them in the clear."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_digest

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
from walkv.engine import frame, manifest
from walkv.engine.keyring import Keyring, Secret
from walkv.engine.manifest import Manifest
from walkv.engine.snapshot import BlockCache, SnapshotReader, layout
from walkv.engine.vfs import OsFileSystem
from walkv.ops import RepairReport, repair
from walkv.ops.repairing import merging, report
from walkv.ops.repairing.merging import Deletions, LogEntries
from walkv.ops.repairing.segments import Commit

KEY = bytes(range(32))
OTHER = bytes(32)
Repair = Callable[[Files], tuple[RepairReport, dict[bytes, bytes]]]


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WALKV_KEY", raising=False)
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


@pytest.fixture
def original() -> Original:
    return build(key=KEY)


@pytest.fixture
def repaired(tmp_path: Path) -> Repair:
    """Repair files, and give the report and what was saved: it is encrypted, too."""

    def run(files: Files) -> tuple[RepairReport, dict[bytes, bytes]]:
        source = lay_out(files, tmp_path / "source")
        target = tmp_path / "target"
        found = repair(source, target, key=KEY)
        with pytest.raises(walkv.EncryptionError):
            walkv.open(target)
        saved = contents(target, KEY)
        shutil.rmtree(target)
        return found, saved

    return run


def known(original: Original) -> tuple[Manifest, Keyring]:
    made = manifest.decode(original.files["MANIFEST"], "")
    keyring = Keyring(Secret(KEY), os.urandom)
    keyring.unlock(made.ring, made.store_id, "")
    return made, keyring


def put(files: Files, name: str, start: int, new: bytes) -> Files:
    return changed(files, name, lambda data: data.__setitem__(slice(start, start + len(new)), new))


def forged(data: bytes, start: int, stop: int) -> bytes:
    """A frame or page with another bit in its end, and the checksum for that."""
    salt = int.from_bytes(data[32:40], "little")
    body = data[start + 8 : stop - 1] + bytes((data[stop - 1] ^ 1,))
    return xxh3_64_digest(body, (salt + start) & frame.SEED_MASK) + body


def root_of(original: Original, name: str, tmp_path: Path) -> tuple[Any, layout.SnapshotFooter]:
    path = tmp_path / Path(name).name
    path.write_bytes(original.files[name])
    number = layout.parse_file_name(path.name) or 0
    made, keyring = known(original)
    fs = OsFileSystem()
    reader = SnapshotReader(fs, str(path), made.store_id, number, BlockCache(0), keyring)
    path.unlink()
    return reader._root, reader._footer


def held(original: Original, report: RepairReport, saved: dict[bytes, bytes]) -> None:
    assert list(wrongs(original, saved, report)) == []


class TestSaved:
    def test_nothing_is_missing(self, repaired: Repair, original: Original) -> None:
        found, saved = repaired(original.files)
        assert saved == original.final
        assert (found.complete, found.damages, found.warnings) == (True, (), ())

    def test_a_passphrase_and_the_variable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WALKV_KEY", "correct horse")
        with walkv.open(tmp_path / "source") as store:
            store.put(b"k", b"v")
        assert repair(tmp_path / "source", tmp_path / "target").complete
        monkeypatch.delenv("WALKV_KEY")
        with walkv.open(tmp_path / "target", key="correct horse") as store:
            assert store[b"k"] == b"v"
        monkeypatch.setenv("WALKV_KEY", "meant for others")
        with walkv.open(tmp_path / "plain", key=None) as store:
            assert store.stats().encrypted
        monkeypatch.delenv("WALKV_KEY")
        with walkv.open(tmp_path / "open") as store:
            store.put(b"k", b"v")
        monkeypatch.setenv("WALKV_KEY", "meant for others")
        repair(tmp_path / "open", tmp_path / "mended")
        monkeypatch.delenv("WALKV_KEY")
        assert contents(tmp_path / "mended") == {b"k": b"v"}, "as it was, not encrypted"

    def test_a_store_that_had_several_data_keys(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        with walkv.open(source, key=KEY, keep_log=walkv.KeepLog()) as store:
            store.put(b"a", b"1")
            store.rekey(OTHER)
            store.put(b"b", b"2")
        (source / "MANIFEST").write_bytes(b"")
        with pytest.raises(walkv.EncryptionError) as caught:
            repair(source, tmp_path / "target", key=OTHER)
        assert caught.value.reason == "lost"

    def test_nothing_is_anywhere_in_the_clear(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every byte that is written on the way is looked at, in the scratch directory too."""
        source, written = tmp_path / "source", bytearray()
        with walkv.open(source, key=KEY) as store:
            for number in range(300):
                store.put(b"secret key %d" % number, b"secret value" * 9)
            store.compact()
            for number in range(300):
                store.put(b"secret key %d" % number, b"secret newer value" * 9)
        pwrite, spilled = os.pwrite, []

        def noted(descriptor: int, data: bytes, offset: int) -> int:
            written.extend(data)
            return pwrite(descriptor, data, offset)

        def small(fs: OsFileSystem, scratch: str, *, encrypted: bool) -> LogEntries:
            made = LogEntries(fs, scratch, 1_000, encrypted=encrypted)
            spilled.append(made._spilled)
            return made

        monkeypatch.setattr(os, "pwrite", noted)
        monkeypatch.setattr(import_module("walkv.ops.repairing.repair"), "LogEntries", small)
        repair(source, tmp_path / "target", key=KEY)
        assert len(spilled[0]) > 5
        assert len(written) > 40_000
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        for data in (bytes(written), *(path.read_bytes() for path in files)):
            assert b"secret" not in data
        assert len(contents(tmp_path / "target", KEY)) == 300

    def test_runs_on_disk_are_read_again(self, tmp_path: Path) -> None:
        log = LogEntries(OsFileSystem(), str(tmp_path / "scratch"), 100, encrypted=True)
        for number in range(1, 20):
            log.add(Commit(number, [b"key %d" % (number % 7), b"hidden" * 9]))
        assert len(log.runs()) > 3
        found = list(merging.merged(log.runs(), [], Deletions([])))
        assert [key for key, _, _ in found] == [b"key %d" % number for number in range(7)]
        assert b"hidden" not in b"".join(p.read_bytes() for p in (tmp_path / "scratch").iterdir())


class TestChanged:
    """Somebody has changed bytes, and made their checksums right."""

    def test_a_frame(self, repaired: Repair, original: Original) -> None:
        name = original.segments[-1]
        data = original.files[name]
        start, each = frames_of(data)[4]
        found, saved = repaired(
            put(original.files, name, start, forged(data, start, each.end_offset))
        )
        (loss,) = found.losses
        assert (loss.path, loss.offset_bytes, loss.part) == (name, start, "frames")
        assert "was changed" in loss.reason
        assert loss.first_sequence == each.first_sequence
        assert loss.last_sequence == each.first_sequence + each.operation_count - 1
        held(original, found, saved)

    def test_a_seal_in_the_middle(self, repaired: Repair, original: Original) -> None:
        """Who believed it would leave out what is behind it."""
        name = original.segments[-1]
        data = original.files[name]
        salt = int.from_bytes(data[32:40], "little")
        start, each = frames_of(data)[4]
        made = frame.encode(
            each.payload,
            salt=salt,
            offset=start,
            operation_count=0,
            first_sequence=each.first_sequence,
            time_ns=each.time_ns,
            synced_offset=each.synced_offset,
            kind=frame.SEAL,
        )
        found, saved = repaired(put(original.files, name, start, made))
        assert "was changed" in found.losses[0].reason
        held(original, found, saved)
        assert len(original.final.items() - saved.items()) <= each.operation_count

    def test_a_data_page(self, repaired: Repair, original: Original, tmp_path: Path) -> None:
        name = original.snapshots[0]
        data = original.files[name]
        root, _ = root_of(original, name, tmp_path)
        size = next(
            at
            for at in range(44, root.data_lengths[0] + 1)
            if xxh3_64_digest(
                data[72 : 64 + at], (int.from_bytes(data[32:40], "little") + 64) & frame.SEED_MASK
            )
            == data[64:72]
        )
        found, saved = repaired(put(original.files, name, 64, forged(data, 64, 64 + size)))
        (loss,) = found.losses
        assert (loss.part, loss.offset_bytes, loss.size_bytes) == ("data page", 64, size)
        assert "was changed" in loss.reason
        held(original, found, saved)

    def test_a_file_that_is_not_encrypted(self, repaired: Repair, original: Original) -> None:
        name = original.snapshots[1]
        header = layout.decode_header(original.files[name][:64], name)
        plain = layout.SnapshotHeader(header.store_id, header.salt, header.snapshot_id, 0)
        found, saved = repaired(put(original.files, name, 0, plain.encode()))
        (loss,) = found.losses
        assert (loss.path, loss.part) == (name, "snapshot")
        assert "not encrypted" in loss.reason
        held(original, found, saved)

    def test_the_manifest(self, repaired: Repair, original: Original) -> None:
        """Its keys are right: they open. What it says of files is not believed."""
        made, _ = known(original)
        files = original.files
        data = bytearray(files["MANIFEST"])
        data[-1] ^= 1
        data[16:24] = xxh3_64_digest(bytes(data[:16] + data[24:]))
        found, saved = repaired({**files, "MANIFEST": bytes(data)})
        assert saved == original.final
        assert "was not written with the store's key" in found.damages[0].reason
        assert made.ring is not None


class TestDamaged:
    @pytest.mark.parametrize("bit", range(3, 512, 41))
    def test_one_bit_of_a_header(self, repaired: Repair, original: Original, bit: int) -> None:
        name = (original.segments[1], original.snapshots[0])[bit % 2]
        flip = bytes((original.files[name][bit // 8] ^ 1 << bit % 8,))
        found, saved = repaired(put(original.files, name, bit // 8, flip))
        assert saved == original.final
        assert [d.part for d in found.damages] == ["header"]

    @pytest.mark.parametrize("kind", ["segments", "snapshots"])
    def test_a_header_of_which_salt_and_time_are_left(
        self, repaired: Repair, original: Original, kind: str
    ) -> None:
        name = getattr(original, kind)[1]
        files = put(
            put(put(original.files, name, 0, bytes(32)), name, 40, bytes(8)), name, 56, b"12345678"
        )
        found, saved = repaired(files)
        assert saved == original.final
        assert found.complete

    def test_header_and_footer(self, repaired: Repair, original: Original) -> None:
        """Then it is the first page that shows that the salt is right."""
        name = original.snapshots[1]
        files = put(original.files, name, 0, bytes(32))
        found, saved = repaired(put(files, name, len(files[name]) - 40, bytes(8)))
        assert saved == original.final
        assert found.complete

    @pytest.mark.parametrize("kind", ["segments", "snapshots"])
    @pytest.mark.parametrize("at", [33, 50])
    def test_a_byte_of_salt_or_time_and_more(
        self, repaired: Repair, original: Original, kind: str, at: int
    ) -> None:
        name = getattr(original, kind)[1]
        other = bytes((original.files[name][at] ^ 0x5A,))
        found, saved = repaired(put(put(original.files, name, at, other), name, 0, bytes(16)))
        assert saved == original.final
        assert found.complete

    def test_a_header_without_its_time(self, repaired: Repair, original: Original) -> None:
        name = original.snapshots[1]
        found, saved = repaired(put(original.files, name, 46, bytes(18)))
        (loss,) = found.losses
        assert (loss.path, loss.part) == (name, "snapshot")
        assert "key of the file" in loss.reason
        held(original, found, saved)

    @pytest.mark.parametrize("part", ["index", "root", "footer", "both"])
    def test_pages_are_found_without_what_points_at_them(
        self, repaired: Repair, original: Original, tmp_path: Path, part: str
    ) -> None:
        name = original.snapshots[0]
        root, footer = root_of(original, name, tmp_path)
        index = root.offsets[0] + root.data_lengths[0]
        files = original.files
        if part == "index":
            files = put(files, name, index + 20, bytes(8))
        if part in ("root", "both"):
            files = put(files, name, footer.root_offset + 20, bytes(8))
        if part in ("footer", "both"):
            files = put(files, name, len(files[name]) - 30, bytes(8))
        found, saved = repaired(files)
        assert saved == original.final
        held(original, found, saved)
        assert found.complete == (part != "both")

    def test_pages_behind_a_damaged_one(
        self, repaired: Repair, original: Original, tmp_path: Path
    ) -> None:
        name = original.snapshots[0]
        root, _ = root_of(original, name, tmp_path)
        files = put(original.files, name, root.offsets[0] + root.data_lengths[0] + 20, bytes(8))
        found, saved = repaired(put(files, name, 3_000, bytes(8)))
        (loss,) = found.losses
        assert loss.offset_bytes == 64
        assert loss.size_bytes < 12_000
        held(original, found, saved)
        assert 0 < len(original.final.items() - saved.items()) < 200


class TestSweep:
    @pytest.mark.parametrize("keep", [False, True])
    @pytest.mark.parametrize("part", range(2))
    def test_whatever_is_damaged(self, repaired: Repair, keep: bool, part: int) -> None:
        original = build(keep, key=KEY)
        rng = random.Random(f"{keep} {part}")
        lossy = 0
        for _ in range(25):
            files = dict(original.files)
            damages = [damage(files, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            try:
                found, saved = repaired(files)
            except walkv.EncryptionError:
                assert files.get("MANIFEST") != original.files["MANIFEST"], damages
                continue
            wrong = list(wrongs(original, saved, found, files))
            if any(d.path == "MANIFEST" for d in found.damages):
                # A file that went with the manifest is missed by nobody.
                wrong = [each for each in wrong if each.startswith("invented")]
            assert wrong == [], damages
            lossy += not found.complete
        assert lossy


class TestKeys:
    @pytest.mark.parametrize(("key", "reason"), [(None, "missing"), (OTHER, "wrong")])
    def test_a_key_that_does_not_fit(
        self, original: Original, tmp_path: Path, key: bytes | None, reason: str
    ) -> None:
        source = lay_out(original.files, tmp_path / "source")
        with pytest.raises(walkv.EncryptionError) as caught:
            repair(source, tmp_path / "target", key=key)
        assert caught.value.reason == reason
        assert os.listdir(tmp_path) == ["source"]

    @pytest.mark.parametrize("gone", [True, False])
    def test_a_key_for_a_store_that_is_not_encrypted(self, tmp_path: Path, gone: bool) -> None:
        files = build().files
        source = lay_out(without(files, "MANIFEST") if gone else files, tmp_path / "source")
        with pytest.raises(walkv.EncryptionError) as caught:
            repair(source, tmp_path / "target", key=KEY)
        assert caught.value.reason == "not-encrypted"

    @pytest.mark.parametrize("how", ["gone", "empty", "a folder", "cut"])
    def test_without_the_manifest_there_are_no_keys(
        self, original: Original, tmp_path: Path, how: str
    ) -> None:
        files = without(original.files, "MANIFEST")
        if how in ("empty", "cut"):
            files["MANIFEST"] = b"" if how == "empty" else original.files["MANIFEST"][:-60]
        source = lay_out(files, tmp_path / "source")
        if how == "a folder":
            (source / "MANIFEST").mkdir()
        for key in (KEY, None):
            with pytest.raises(walkv.EncryptionError, match="MANIFEST of a backup") as caught:
                repair(source, tmp_path / "target", key=key)
            assert caught.value.reason == "lost"
        assert os.listdir(tmp_path) == ["source"]

    def test_a_copy_of_the_manifest_has_them(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(without(original.files, "MANIFEST"), tmp_path / "source")
        (tmp_path / "old").write_bytes(original.files["MANIFEST"])
        found = repair(source, tmp_path / "target", key=KEY, manifest=tmp_path / "old")
        assert found.complete
        assert found.damages[0].path == "MANIFEST"
        assert contents(tmp_path / "target", KEY) == original.final

    def test_a_copy_from_before_the_key_was_changed(self, tmp_path: Path) -> None:
        """It opens with the key of that time, and has not the data key that came later."""
        source = tmp_path / "source"
        with walkv.open(source, key=KEY) as store:
            store.put(b"a", b"1")
            store.compact()
        shutil.copy(source / "MANIFEST", tmp_path / "old")
        before = {path.name: path.read_bytes() for path in (source / "snapshots").iterdir()}
        with walkv.open(source, key=KEY) as store:
            store.rekey(OTHER)
            store.put(b"b", b"2")
        (source / "MANIFEST").unlink()
        for name, data in before.items():
            (source / "snapshots" / name).write_bytes(data)
        found = repair(source, tmp_path / "target", key=KEY, manifest=tmp_path / "old")
        assert any("under a key that the store does not have" in d.reason for d in found.losses)
        assert contents(tmp_path / "target", KEY) == {b"a": b"1"}

    def test_what_is_no_copy(self, original: Original, tmp_path: Path) -> None:
        source = lay_out(without(original.files, "MANIFEST"), tmp_path / "source")
        copy = tmp_path / "copy"

        def refused(data: bytes, error: type[Exception], words: str) -> None:
            copy.write_bytes(data)
            with pytest.raises(error, match=words):
                repair(source, tmp_path / "target", key=KEY, manifest=copy)

        refused(build(seed=8, key=KEY).files["MANIFEST"], walkv.EncryptionError, "another store")
        refused(build().files["MANIFEST"], walkv.EncryptionError, "another store")
        refused(original.files["MANIFEST"][:-3], walkv.CorruptionError, "checksum")
        refused(b"a letter to somebody", walkv.FormatError, "not a walkv manifest")
        copy.unlink()
        with pytest.raises(FileNotFoundError):
            repair(source, tmp_path / "target", key=KEY, manifest=copy)

    @pytest.mark.parametrize("part", range(4))
    def test_one_flipped_bit_of_the_manifest(
        self, repaired: Repair, original: Original, part: int
    ) -> None:
        data = original.files["MANIFEST"]
        bit = random.Random(part).randrange(8 * 24, 8 * len(data))
        flip = bytes((data[bit // 8] ^ 1 << bit % 8,))
        found, saved = repaired(put(original.files, "MANIFEST", bit // 8, flip))
        assert saved == original.final
        assert [d.part for d in found.damages] == ["manifest"]

    def test_the_ring_is_found_behind_damage(self, repaired: Repair, original: Original) -> None:
        found, saved = repaired(put(original.files, "MANIFEST", 0, b"\x93" * 60))
        assert saved == original.final
        assert found.complete

    def test_a_damaged_ring(self, original: Original, tmp_path: Path) -> None:
        data = original.files["MANIFEST"]
        made, _ = known(original)
        assert made.ring is not None
        at = data.index(made.ring.keys[0][1])
        source = lay_out(put(original.files, "MANIFEST", at + 5, bytes(9)), tmp_path / "source")
        with pytest.raises(walkv.EncryptionError) as caught:
            repair(source, tmp_path / "target", key=KEY)
        assert caught.value.reason == "lost"


def test_reasons_are_said_in_the_same_words() -> None:
    assert "was changed" in report.CHANGED
