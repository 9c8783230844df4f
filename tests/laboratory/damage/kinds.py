"""Damages as texts, so that a job can name a single one, and the sweeps that list them.

    bit:FILE:N             bit N flipped
    cut:FILE:LENGTH        cut short, or filled with zeros, to a length
    zero:FILE:A:B          bytes A to B zeroed
    noise:FILE:A:N:SEED    N random bytes written at A, also past the end
    insert:FILE:A:N:SEED   N random bytes put in at A: all behind it is shifted
    remove:FILE:A:N        N bytes taken out at A
    double:FILE            the file twice in a row
    gone:FILE              deleted
    folder:NAME            a directory deleted with what is in it
    swap:FILE:OTHER        each under the other's name
    copy:FROM:TO           FROM's bytes under TO's name, which may be new
    stale:FILE:K           the K-th earlier version, also of a file that is no longer there

Several joined by ``+`` are done in turn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Final

from tests.laboratory.damage.stores import DIRECTORIES, Files, Original

_NEW_NAMES: Final = ("log/00000000000000009999.wal", "snapshots/0000009999.snap", "MANIFEST.tmp")
_PAGES: Final = (512, 4096)
_HOLE_BYTES: Final = 16
_ZEROS: Final = bytes(256)


def apply(original: Original, text: str) -> Files:
    """The files of the store after a damage; those of the original stay as they are.

    Raises:
        ValueError: no such damage, or none of this store.
    """
    files = dict(original.files)
    for part in text.split("+"):
        kind, *words = part.split(":")
        try:
            _KINDS[kind](original, files, *words)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"no such damage of this store: {part}") from error
    return files


def _bit(_: Original, files: Files, name: str, number: str) -> None:
    data = bytearray(files[name])
    if int(number) < len(data) * 8:  # the file may have been cut before
        data[int(number) // 8] ^= 1 << int(number) % 8
    files[name] = bytes(data)


def _cut(_: Original, files: Files, name: str, length: str) -> None:
    files[name] = files[name][: int(length)].ljust(int(length), b"\0")


def _zero(_: Original, files: Files, name: str, start: str, stop: str) -> None:
    data = files[name]
    end = int(stop)
    files[name] = data[: int(start)] + data[int(start) : end].translate(_ZEROS) + data[end:]


def _noise(_: Original, files: Files, name: str, start: str, count: str, seed: str) -> None:
    data, at = files[name], int(start)
    files[name] = data[:at] + random.Random(seed).randbytes(int(count)) + data[at + int(count) :]


def _insert(_: Original, files: Files, name: str, start: str, count: str, seed: str) -> None:
    data, at = files[name], int(start)
    files[name] = data[:at] + random.Random(seed).randbytes(int(count)) + data[at:]


def _remove(_: Original, files: Files, name: str, start: str, count: str) -> None:
    data, at = files[name], int(start)
    files[name] = data[:at] + data[at + int(count) :]


def _double(_: Original, files: Files, name: str) -> None:
    files[name] *= 2


def _gone(_: Original, files: Files, name: str) -> None:
    del files[name]


def _folder(_: Original, files: Files, name: str) -> None:
    # The check leaves out the directory itself where nothing is in it.
    for inside in [each for each in files if each.startswith(f"{name}/")]:
        del files[inside]


def _swap(_: Original, files: Files, one: str, other: str) -> None:
    files[one], files[other] = files[other], files[one]


def _copy(_: Original, files: Files, source: str, target: str) -> None:
    files[target] = files[source]


def _stale(original: Original, files: Files, name: str, number: str) -> None:
    files[name] = original.history[name][int(number)]


_KINDS: Final[dict[str, Callable[..., None]]] = {
    "bit": _bit,
    "cut": _cut,
    "zero": _zero,
    "noise": _noise,
    "insert": _insert,
    "remove": _remove,
    "double": _double,
    "gone": _gone,
    "folder": _folder,
    "swap": _swap,
    "copy": _copy,
    "stale": _stale,
}


# -- sweeps --------------------------------------------------------------------------------------


def bits(original: Original, _: random.Random) -> Iterator[str]:
    """Every bit of every file but the lock."""
    for name, data in original.files.items():
        if name != "LOCK":
            yield from (f"bit:{name}:{number}" for number in range(len(data) * 8))


def cuts(original: Original, rng: random.Random) -> Iterator[str]:
    """At every offset of every file: cut, zeroed on, a hole, noise, a byte more, some less."""
    for name, data in original.files.items():
        for at in range(len(data)):
            seed = rng.randrange(1 << 30)
            yield f"cut:{name}:{at}"
            yield f"zero:{name}:{at}:{len(data)}"
            yield f"zero:{name}:{at}:{at + _HOLE_BYTES}"
            yield f"noise:{name}:{at}:1:{seed}"
            yield f"noise:{name}:{at}:{rng.randrange(2, 64)}:{seed}"
            yield f"insert:{name}:{at}:1:{seed}"
            yield f"remove:{name}:{at}:{rng.randrange(1, 9)}"


def files(original: Original, rng: random.Random) -> Iterator[str]:
    """Whole files: deleted, swapped, doubled, lengthened, overwritten, and each earlier version."""
    names = list(original.files)
    for name in names:
        size = len(original.files[name])
        yield f"gone:{name}"
        yield f"double:{name}"
        yield f"cut:{name}:{size + 1}"
        yield f"cut:{name}:{size + 5000}"
        for count in (1, 45, 5000):
            yield f"noise:{name}:{size}:{count}:{rng.randrange(1 << 30)}"
        for count in (size, 100_000):
            yield f"noise:{name}:0:{count}:{rng.randrange(1 << 30)}"
        yield from (f"copy:{name}:{new}" for new in _NEW_NAMES)
    yield from (f"swap:{one}:{other}" for one, other in itertools.combinations(names, 2))
    yield from (f"copy:{one}:{other}" for one, other in itertools.permutations(names, 2))
    yield from (f"folder:{name}" for name in DIRECTORIES)
    yield from stale(original, rng)


def stale(original: Original, _: random.Random) -> Iterator[str]:
    """Every earlier version of every file, and of files that are no longer there. An older snapshot
    also under the names of those that are."""
    for name, versions in original.history.items():
        yield from (f"stale:{name}:{number}" for number in range(len(versions)))
        if name not in original.files and versions:
            folder = name.partition("/")[0]
            later = [each for each in original.files if each.startswith(f"{folder}/")]
            yield from (f"stale:{name}:{len(versions) - 1}+copy:{name}:{each}" for each in later)


def pairs(original: Original, rng: random.Random) -> Iterator[str]:
    """Two single damages of any files, without end."""
    while True:
        yield f"{_single(original, rng)}+{_single(original, rng)}"


def random_ones(original: Original, rng: random.Random) -> Iterator[str]:
    """Single damages, now and then two, without end."""
    while True:
        text = _single(original, rng)
        yield text if rng.random() < 0.8 else f"{text}+{_single(original, rng)}"


def singles(original: Original, rng: random.Random) -> Iterator[str]:
    """One damage of one file, without end."""
    while True:
        yield _single(original, rng)


def _single(original: Original, rng: random.Random) -> str:
    name = rng.choice([each for each in original.files if each != "LOCK"])
    size = len(original.files[name])
    at, seed = rng.randrange(size), rng.randrange(1 << 30)
    kind = rng.randrange(7)
    if kind == 0:
        return f"cut:{name}:{at}"
    if kind == 1:
        page = rng.choice(_PAGES)
        return f"zero:{name}:{at // page * page}:{at // page * page + page}"
    if kind == 2:
        return f"noise:{name}:{at}:{rng.randrange(1, 600)}:{seed}"
    if kind == 3:
        return f"insert:{name}:{at}:{rng.choice((1, 2, 44, 512))}:{seed}"
    if kind == 4:
        return f"remove:{name}:{at}:{rng.choice((1, 2, 44, 512))}"
    return f"bit:{name}:{rng.randrange(size * 8)}"


SWEEPS: Final[dict[str, Callable[[Original, random.Random], Iterator[str]]]] = {
    "bits": bits,
    "cuts": cuts,
    "files": files,
    "pairs": pairs,
    "random": random_ones,
}
