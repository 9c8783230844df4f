"""Damage under a running engine: its files change while it has them open and its cache is cold.

Reads give the exact state or a ``CorruptionError`` that names the damaged file, ``verify`` finds
the damage, a compaction over it loses nothing, and after a close it is still found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import walkv
from tests.laboratory.damage import kinds
from tests.laboratory.damage.check import SilentError, boot, demand, demand_seen
from tests.laboratory.damage.stores import ROOT, Files, Original, State
from walkv.engine import segment
from walkv.testing import SimulatedFileSystem


def texts(original: Original, rng: Random) -> Iterator[str]:
    """Single damages, without end; after each of the first few an earlier version of a file."""
    earlier = [text for text in kinds.stale(original, rng) if "+" not in text]
    earlier = [text for text in earlier if text.split(":")[1] in original.files]
    for text in kinds.singles(original, rng):
        yield text
        if earlier:
            yield earlier.pop(rng.randrange(len(earlier)))


def check(original: Original, text: str, *, compacting: bool) -> str:
    """One damage under a running engine; returns the kind of outcome.

    Raises:
        WrongError: wrong data, damage unseen, or an error that names another file.
    """
    fs = boot(original.files)
    store = walkv.open(ROOT, filesystem=fs, create=False, cache_bytes=0)
    keys = original.probes
    _reads(store, original.final, keys[:3], set())
    now = _now(fs)
    damaged = kinds.apply(replace(original, files=now), text)
    changed = {name for name in now if damaged.get(name) != now[name]} - {"LOCK"}
    for name in changed:
        _overwrite(fs, name, damaged.get(name))
    _reads(store, original.final, keys, changed)
    seen = changed - _unseen_rightly(now, damaged, changed)
    found = {problem.path.removeprefix(f"{ROOT}/") for problem in store.verify().problems}
    demand_seen(seen <= found, f"verify found {sorted(found)}, and damaged are {sorted(seen)}")
    demand(found <= changed, f"verify found {sorted(found)}, and damaged are {sorted(changed)}")
    if compacting:
        _compact(store, original.final, keys, changed)
    elif seen:
        store.close()
        _still_seen(fs, original.final)
    return "refused when read" if seen else "harmless"


def _now(fs: SimulatedFileSystem) -> Files:
    files = fs.visible().files
    return {path.removeprefix(f"{ROOT}/"): data for path, data in files.items()}


def _overwrite(fs: SimulatedFileSystem, name: str, data: bytes | None) -> None:
    if data is None:
        fs.unlink(f"{ROOT}/{name}")
        return
    file = fs.open(f"{ROOT}/{name}", writable=True)
    file.truncate(0)
    file.write(data, 0)
    file.close()


def _unseen_rightly(now: Files, damaged: Files, changed: set[str]) -> set[str]:
    """Segments that only zeros were added to, and the tail where anything was added behind its end:
    a live writer may be writing there."""
    segments = [name for name in now if name.endswith(segment.SUFFIX)]
    unseen = set()
    for name in changed & set(segments):
        written = now[name].rstrip(b"\0") if name == max(segments) else now[name]
        data = damaged.get(name, b"")
        only_zeros = not any(data[len(written) :])
        if data.startswith(written) and (name == max(segments) or only_zeros):
            unseen.add(name)
    return unseen


def _reads(store: walkv.Store, right: State, keys: list[bytes], damaged: set[str]) -> None:
    for key in keys:
        try:
            value = store.get(key)
        except walkv.CorruptionError as error:
            _names(error, damaged)
            continue
        demand_seen(value == right.get(key), f"get({key!r}) gave {value!r}")
    for reverse in (False, True):
        try:
            state = dict(store.scan(reverse=reverse))
        except walkv.CorruptionError as error:
            _names(error, damaged)
            continue
        demand_seen(state == right, f"a scan gave another state, reverse={reverse}")


def _names(error: walkv.CorruptionError, damaged: set[str]) -> None:
    name = error.path.removeprefix(f"{ROOT}/")
    demand(name in damaged, f"{name} was refused, and damaged are {sorted(damaged)}")


def _compact(store: walkv.Store, right: State, keys: list[bytes], damaged: set[str]) -> None:
    before = set(_now(store.engine.fs))  # type: ignore[arg-type]  # it is the simulated one
    try:
        store.compact()
    except walkv.CorruptionError as error:
        _names(error, damaged)
        kept = {name for name in before if name.startswith("snapshots/")}
        gone = kept - set(_now(store.engine.fs)) - damaged  # type: ignore[arg-type]
        demand(not gone, f"a compaction that was refused removed {sorted(gone)}")
    except walkv.StoreFailedError:
        demand("MANIFEST" in damaged or bool(damaged), "a compaction failed without damage")
        return
    _reads(store, right, keys, damaged)


def _still_seen(fs: SimulatedFileSystem, right: State) -> None:
    """After the close: refused, found by ``verify``, or nothing is missing."""
    try:
        store = walkv.open(ROOT, filesystem=fs, create=False)
        if store.verify().ok and dict(store.scan()) != right:
            raise SilentError("after a close the damage is not seen any more, and data is missing")
    except (walkv.CorruptionError, walkv.FormatError):
        return
