"""The same failures from a real kernel: full, limited, read-only and vanishing file systems."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import run

import walkv
from walkv import StoreFailedError, WriteBack


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount {' '.join(arguments)} is not possible here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    point = tmp_path / "disk"
    point.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(point))
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


@pytest.mark.parametrize("memtable_bytes", [65_536, 64 << 20], ids=["flushing", "log only"])
def test_a_full_disk(small_disk: Path, memtable_bytes: int) -> None:
    store = walkv.open(small_disk / "s", memtable_bytes=memtable_bytes)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    acknowledged: dict[bytes, bytes] = {}
    chooser = random.Random(1)

    def fill() -> OSError:
        for _ in range(10_000):
            key, value = b"%06d" % len(acknowledged), chooser.randbytes(700)
            try:
                store.put(key, value)
            except OSError as error:
                return error
            acknowledged[key] = value
        raise AssertionError("a disk of 2 MiB took 7 MB")

    for _ in range(3):
        error = fill()
        assert error.errno == errno.ENOSPC
        assert "everything before it is kept" in str(error)
        assert dict(store.scan()) == acknowledged
    ballast.unlink()
    store.put(b"after", b"space came back")
    store.close()
    with walkv.open(small_disk / "s") as reopened:
        assert dict(reopened.scan()) == {**acknowledged, b"after": b"space came back"}
        assert reopened.verify().ok


def test_a_store_can_be_read_and_closed_on_a_full_disk(small_disk: Path) -> None:
    with walkv.open(small_disk / "s") as store:
        store.put(b"k", b"v")
    store = walkv.open(small_disk / "s")
    store.put(b"l", b"w", sync=WriteBack())
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(4 << 20))
    store.close()
    with walkv.open(small_disk / "s", read_only=True) as reader:
        assert dict(reader.scan()) == {b"k": b"v", b"l": b"w"}
    (small_disk / "ballast").unlink()
    with walkv.open(small_disk / "s") as store:
        assert dict(store.scan()) == {b"k": b"v", b"l": b"w"}


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    out = run(f"""
        import errno, resource, signal
        import walkv
        store = walkv.open({str(tmp_path / "s")!r})
        store.put(b"before", b"1")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        count = 0
        try:
            while True:
                store.put(b"%06d" % count, bytes(900))
                count += 1
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        try:
            store.put(b"large", bytes(200_000))
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        assert store.count() == count + 1
        store.put(b"small", b"1")
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        store.put(b"large", bytes(200_000))
        print(count)
        """)
    with walkv.open(tmp_path / "s") as store:
        assert store.count() == int(out) + 3
        assert len(store[b"large"]) == 200_000


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(path)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
def test_a_read_only_medium(tmp_path: Path, clean: bool) -> None:
    path = tmp_path / "data" / "s"
    path.parent.mkdir()
    run(f"""
        import os, walkv
        store = walkv.open({str(path)!r}, memtable_bytes=65536)
        for number in range(500):
            store.put(b"%04d" % number, b"v" * 300, sync=walkv.WriteBack())
        store.sync()
        if {clean}:
            store.close()
        os._exit(0)
        """)
    before = contents(path)
    point = tmp_path / "mounted"
    point.mkdir()
    mount("--bind", str(path.parent), str(point))
    try:
        mount("-o", "remount,bind,ro", str(point))
        with walkv.open(point / "s", read_only=True) as store:
            assert store.count() == 500
            assert store.verify().ok
            assert store.refresh() is False
            with pytest.raises(walkv.ReadOnlyError):
                store.put(b"k", b"v")
        with pytest.raises(OSError, match="read_only=True") as caught:
            walkv.open(point / "s")
        assert caught.value.errno == errno.EROFS
        with pytest.raises(OSError, match="Read-only file system"):
            walkv.open(point / "new")
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)
    assert contents(path) == before


def test_a_read_only_open_writes_nothing_even_where_it_could(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with walkv.open(path) as store:
        store.put(b"k", b"v")
    (path / "LOCK").unlink()
    with (path / "log" / f"{1:020d}.wal").open("ab") as tail:
        tail.write(b"torn" * 10)
    (path / "MANIFEST.tmp").write_bytes(b"x")
    names = sorted(str(p) for p in path.rglob("*"))
    before = contents(path)
    with walkv.open(path, read_only=True) as store:
        assert store[b"k"] == b"v"
        store.refresh()
    assert contents(path) == before
    assert sorted(str(p) for p in path.rglob("*")) == names


def test_the_live_segment_deleted_underneath_is_noticed_at_rotation(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s")
    store.put(b"k", b"v")
    for segment in (tmp_path / "s" / "log").iterdir():
        segment.unlink()
    store.put(b"l", b"w")
    with pytest.raises(StoreFailedError) as caught:
        store.compact()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(StoreFailedError, match="deleted"):
        store.put(b"m", b"x")
    with pytest.raises(StoreFailedError, match="deleted"):
        store.close()
    with pytest.raises(walkv.CorruptionError, match="missing"):
        walkv.open(tmp_path / "s")


def test_the_directory_deleted_underneath(tmp_path: Path) -> None:
    store = walkv.open(tmp_path / "s")
    store.put(b"k", b"v")
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(StoreFailedError) as caught:
        store.compact()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(StoreFailedError):
        store.close()
    assert not (tmp_path / "s").exists()
    with walkv.open(tmp_path / "s") as fresh:
        assert fresh.count() == 0


def test_the_directory_moved_away_and_another_made(tmp_path: Path) -> None:
    # The lock is of the file, not of the name: two stores, and neither writes into the other.
    store = walkv.open(tmp_path / "s")
    store.put(b"k", b"old")
    os.rename(tmp_path / "s", tmp_path / "moved")
    with walkv.open(tmp_path / "s") as other:
        other.put(b"k", b"new")
        with pytest.raises((OSError, StoreFailedError, walkv.CorruptionError)):
            store.compact()
        assert other[b"k"] == b"new"
    with contextlib.suppress(OSError, walkv.WalkvError):
        store.close()
    with walkv.open(tmp_path / "s") as other:
        assert other[b"k"] == b"new"
        assert other.verify().ok


@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
def test_close_gives_every_descriptor_back(tmp_path: Path, read_only: bool) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc here")
    path = tmp_path / "s"
    with walkv.open(path) as store:
        store.put(b"k", b"v")
        store.compact()
        store.put(b"l", b"w")
    store = walkv.open(path, read_only=read_only)
    assert store[b"k"] == b"v"
    store.close()
    held = [
        os.readlink(descriptors / name)
        for name in os.listdir(descriptors)
        if (descriptors / name).is_symlink()
    ]
    assert [name for name in held if name.startswith(str(path))] == []
    assert store.closed
