"""What the tests of backups share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import walkv

Contents = dict[bytes, bytes]


@pytest.fixture(autouse=True)
def no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Durability has tests of its own; here syncs in this process only wait for a busy disk.
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda descriptor: None)


def fill(
    store: walkv.Store, count: int, *, begin: int = 0, size_bytes: int = 300
) -> dict[int, Contents]:
    """Commit batches of two operations; what the store holds after each, by its last sequence."""
    moments = {}
    for number in range(begin, begin + count):
        with store.batch() as batch:
            batch.put(b"key/%02d" % (number % 20), os.urandom(size_bytes))
            batch.put(b"number", b"%d" % number)
        moments[store.stats().last_sequence] = dict(store.scan())
    return moments


def contents(path: Path) -> Contents:
    with walkv.open(path, read_only=True) as store:
        return dict(store.scan())


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


def flip(path: Path, offset_bytes: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset_bytes] ^= 1
    path.write_bytes(data)


def objects(target: Path) -> Iterator[Path]:
    yield from sorted((target / "objects").iterdir())
