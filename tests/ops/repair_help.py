"""Stores to damage and repair, and the rule that every repair of them is held against."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import walkv
from walkv.engine import frame, segment
from walkv.engine.frame import Frame
from walkv.ops import Damage, RepairReport
from walkv.testing import SimulatedFileSystem

ROOT = "/s"
Files = dict[str, bytes]


@dataclass
class Original:
    """A store, and every version that each key ever had: (sequence, value or None)."""

    files: Files
    versions: dict[bytes, list[tuple[int, bytes | None]]]
    last_sequence: int

    @property
    def final(self) -> dict[bytes, bytes]:
        newest = ((key, versions[-1][1]) for key, versions in self.versions.items())
        return {key: value for key, value in newest if value is not None}

    def names(self, folder: str, suffix: str) -> list[str]:
        return sorted(n for n in self.files if n.startswith(folder) and n.endswith(suffix))

    @property
    def snapshots(self) -> list[str]:
        """Oldest first."""
        return self.names("snapshots/", ".snap")

    @property
    def segments(self) -> list[str]:
        return self.names("log/", ".wal")

    @property
    def kept(self) -> list[str]:
        return self.names("log/", ".kept")


@dataclass
class Life:
    """A store being made, and its model."""

    keep: bool
    seed: int
    key: bytes | None = None
    versions: dict[bytes, list[tuple[int, bytes | None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.fs = SimulatedFileSystem(seed=self.seed)
        self._open()

    def _open(self) -> None:
        keep = walkv.KeepLog(1e9, 1 << 40) if self.keep else None
        self.store = walkv.open(
            ROOT, filesystem=self.fs, memtable_bytes=1 << 16, keep_log=keep, key=self.key
        )

    def kill(self) -> None:
        self.fs = self.fs.after_kill()
        self._open()

    def _note(self, back: int, key: bytes, value: bytes | None) -> None:
        self.versions.setdefault(key, []).append((self.store.last_sequence - back, value))

    def value(self) -> bytes:
        if self.rng.random() < 0.3:
            return b"again and again " * self.rng.randrange(1, 12)
        return self.rng.randbytes(self.rng.randrange(10, 160))

    def put(self, *keys: bytes, ttl_seconds: float | None = None) -> None:
        values = [self.value() for _ in keys]
        with self.store.batch() as batch:
            for key, value in zip(keys, values, strict=True):
                batch.put(key, value, ttl_seconds=ttl_seconds)
        for back, (key, value) in enumerate(zip(keys[::-1], values[::-1], strict=True)):
            self._note(back, key, value)

    def delete(self, key: bytes) -> None:
        self.store.delete(key)
        self._note(0, key, None)

    def delete_range(self, start: bytes, stop: bytes) -> None:
        self.store.delete_range(start=start, stop=stop)
        for key in [key for key in self.versions if start <= key < stop]:
            self._note(0, key, None)

    def fill(self, snapshot_count: int) -> None:
        """Put keys until there are so many snapshots."""
        while self.store.stats().snapshot_count < snapshot_count:
            self.put(*(b"key/%05d" % self.rng.randrange(100_000) for _ in range(8)))


@lru_cache(maxsize=4)
def build(keep: bool = False, seed: int = 7, key: bytes | None = None) -> Original:
    """Three snapshots, of which the newest has deleted ranges, and two segments."""
    life = Life(keep, seed, key)
    for number in range(0, 400, 8):
        life.put(*(b"key/%05d" % (250 * n) for n in range(number, number + 8)))
    life.put(b"range/1", b"range/2", b"range/3")
    life.put(b"gone")
    life.store.compact()
    life.put(b"long", ttl_seconds=1e9)
    life.fill(2)
    life.delete_range(b"range/1", b"range/3")
    life.delete(b"gone")
    life.delete(b"key/00250")
    life.fill(3)
    life.kill()
    for number in range(12):
        life.put(b"key/%05d" % (250 * number), b"log/%d" % number)
        life.delete(b"key/%05d" % (250 * (number + 20)))
    life.delete_range(b"key/001", b"key/002")
    life.kill()
    for number in range(12):
        life.put(b"log/%d" % number)
    last_sequence = life.store.last_sequence
    files = life.fs.visible().files
    found = {path.removeprefix(f"{ROOT}/"): data for path, data in files.items()}
    tail = max(name for name in found if name.endswith(".wal"))
    found[tail] = found[tail].rstrip(b"\0") + bytes(40)
    found["LOCK"] = b'{"pid": 1, "host": "h"}'
    return Original(found, life.versions, last_sequence)


def changed(files: Files, name: str, change: Callable[[bytearray], Any]) -> Files:
    data = bytearray(files[name])
    change(data)
    return {**files, name: bytes(data)}


def without(files: Files, *names: str) -> Files:
    return {name: data for name, data in files.items() if name not in names}


def frames_of(data: bytes) -> list[tuple[int, Frame]]:
    """The frames of a segment, and where each begins."""
    salt, offset, found = int.from_bytes(data[32:40], "little"), segment.HEADER_BYTES, []
    while isinstance(each := frame.decode(data, offset, salt=salt, offset=offset), Frame):
        found.append((offset, each))
        offset = each.end_offset
    return found


def lay_out(files: Files, directory: Path) -> Path:
    """The files of a store in an empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("log", "snapshots", "quarantine"):
        (directory / name).mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def contents(directory: Path, key: bytes | None = None) -> dict[bytes, bytes]:
    """What a repaired store holds; it must be sound."""
    with walkv.open(directory, create=False, key=key) as store:
        assert store.verify().ok
        return dict(store.scan())


def damage(files: Files, rng: random.Random, into: Files | None = None) -> str:
    """Do something bad to one of the files."""
    into = files if into is None else into
    name = rng.choice([name for name in files if name != "LOCK"])
    data = bytearray(into.get(name, files[name]))
    at = rng.randrange(len(data) + 1)
    count = min(rng.choice((1, 8, 64, 512, 4096)), len(data) - at)
    kind = rng.choice(("bit", "bit", "zero", "noise", "insert", "remove", "cut", "gone"))
    if kind == "bit" and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        data[at : at + count] = bytes(count)
    elif kind == "noise":
        data[at : at + count] = rng.randbytes(count)
    elif kind == "insert":
        data[at:at] = rng.randbytes(rng.randrange(1, 100))
    elif kind == "remove":
        del data[at : at + count]
    elif kind == "cut":
        del data[at:]
    into[name] = bytes(data)
    if kind == "gone" and into is files:
        del files[name]
    return f"{kind} {name} {at} {count}"


def is_covered(damage: Damage, key: bytes, sequence: int) -> bool:
    """Whether a loss that was reported may be the one of this operation."""
    assert damage.first_sequence is not None
    last = damage.last_sequence
    return (
        damage.first_sequence <= sequence
        and (last is None or sequence <= last)
        and (damage.first_key is None or damage.first_key <= key)
        and (damage.stop_key is None or key < damage.stop_key)
    )


def wrongs(
    original: Original, found: dict[bytes, bytes], report: RepairReport, files: Files | None = None
) -> Iterator[str]:
    """Every way in which a repaired store is not what can be had, or its report not true.

    Args:
        files: as they were repaired. Where the newest segment is damaged, its end may look like one
            that a crash has torn, as it does to recovery.
    """
    tail = original.segments[-1]
    torn = files is not None and files.get(tail) != original.files[tail]
    ends = [d.first_sequence for d in report.damages if d.part == "torn tail"]
    torn_from = (ends[0] if ends else None) or report.last_sequence + 1
    final = dict(original.final)
    for key in found.keys() - original.versions.keys():
        yield f"invented: {key!r}"
    for key, versions in original.versions.items():
        sequence, newest = versions[-1]
        value = found.get(key)
        if value == newest:
            continue
        if value is not None and value not in [version for _, version in versions]:
            yield f"invented: a value of {key!r}"
        if torn and sequence >= torn_from:
            final.pop(key, None)
            if value is not None:
                final[key] = value
        elif not any(is_covered(damage, key, sequence) for damage in report.losses):
            yield f"missing and not reported: {key!r}, sequence {sequence}"
    if report.complete and found != final:
        yield "called complete"
