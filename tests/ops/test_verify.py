"""What ``verify`` says of kept segments, and how fast it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import walkv
from tests.ops.repair_help import Original, build, lay_out
from walkv.engine.vfs import OsFileSystem


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


@pytest.fixture
def original() -> Original:
    return build(keep=True)


def problems(path: Path) -> list[walkv.CorruptionError | walkv.FormatError]:
    with walkv.open(path, read_only=True) as store:
        return list(store.verify().problems)


def test_kept_segments_are_sound(original: Original, tmp_path: Path) -> None:
    path = lay_out(original.files, tmp_path / "store")
    with walkv.open(path, read_only=True) as store:
        report = store.verify()
    assert report.ok
    count = len(original.snapshots) + len(original.segments) + len(original.kept)
    assert report.file_count == 1 + count


@pytest.mark.parametrize("at", [20, 36, 70, 3_000, -10])
def test_a_damaged_kept_segment(original: Original, tmp_path: Path, at: int) -> None:
    data = bytearray(original.files[original.kept[1]])
    data[at] ^= 4
    files = {**original.files, original.kept[1]: bytes(data)}
    path = lay_out(files, tmp_path / "store")
    (problem,) = problems(path)
    assert problem.path == str(path / original.kept[1])


def test_one_that_is_cut_short(original: Original, tmp_path: Path) -> None:
    files = {**original.files, original.kept[-1]: original.files[original.kept[-1]][:-45]}
    (problem,) = problems(lay_out(files, tmp_path / "store"))
    assert "does not end with its seal" in str(problem)


@pytest.mark.parametrize("gone", [slice(2), slice(2, 3), slice(-1, None)])
def test_a_store_does_not_depend_on_them(original: Original, tmp_path: Path, gone: slice) -> None:
    """An opener may have kept nothing for a while."""
    files = {name: data for name, data in original.files.items() if name not in original.kept[gone]}
    assert problems(lay_out(files, tmp_path / "store")) == []


def test_no_faster_than_it_may(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only waiting moves."""
    clock = [0.0]
    monkeypatch.setattr(OsFileSystem, "monotonic", lambda self: clock[0])
    monkeypatch.setattr(
        OsFileSystem, "sleep", lambda self, seconds: clock.__setitem__(0, clock[0] + seconds)
    )
    path = lay_out(original.files, tmp_path / "store")
    ahead = []
    with walkv.open(path, read_only=True) as store:
        report = store.verify(
            lambda done, total: ahead.append(done - clock[0] * 10_000), max_bytes_per_second=10_000
        )
        assert clock[0] == pytest.approx(report.checked_bytes / 10_000)
        assert max(ahead[:-1]) < 40_000  # a file at most, and most of the time a page or a frame
        with pytest.raises(ValueError, match="max_bytes_per_second"):
            store.verify(max_bytes_per_second=0)


async def _verify(path: Path) -> walkv.VerifyReport:
    async with await walkv.aopen(path, read_only=True) as store:
        return await store.verify(max_bytes_per_second=1e12)


def test_async(original: Original, tmp_path: Path) -> None:
    import asyncio

    assert asyncio.run(_verify(lay_out(original.files, tmp_path / "store"))).ok
