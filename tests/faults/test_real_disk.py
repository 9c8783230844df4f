"""The same failures from a real kernel: full, limited, read-only and vanishing file systems.

The laboratory's layer does most of it: here some seconds of that, and a few cases with names.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import walkv
from tests.laboratory.job import Job, Scale
from tests.laboratory.systems.limits import contents
from tests.laboratory.systems.rounds import LAYER
from walkv import StoreFailedError, WriteBack

SEED = random.randrange(1 << 30)
JOBS = [job for job in LAYER.jobs(Scale.QUICK, SEED) if job.text.split()[0] not in ("race", "fork")]


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


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("job", JOBS, ids=[job.text for job in JOBS])
def test_what_a_real_machine_does(job: Job) -> None:
    figures = LAYER.run(job)
    assert not figures.failures, figures.failures[0]
    if figures.skipped:
        pytest.skip(figures.skipped[0])
    assert figures.counts.total() > 0


def test_a_store_can_be_read_and_closed_on_a_full_disk(small_disk: Path) -> None:
    with walkv.open(small_disk / "s", min_free_bytes=0) as store:
        store.put(b"k", b"v")
    store = walkv.open(small_disk / "s", min_free_bytes=0)
    store.put(b"l", b"w", sync=WriteBack())
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(4 << 20))
    store.close()
    with walkv.open(small_disk / "s", read_only=True) as reader:
        assert dict(reader.scan()) == {b"k": b"v", b"l": b"w"}
    (small_disk / "ballast").unlink()
    with walkv.open(small_disk / "s") as store:
        assert dict(store.scan()) == {b"k": b"v", b"l": b"w"}


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
