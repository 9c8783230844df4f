"""What must come of a damaged store, and what does.

``expect`` says beforehand, from the undamaged bytes alone, the only outcome that is right: refused,
by which file and at which offset; or opened, with exactly which state, which bytes cut, and which
pages refused by reads and ``verify``. It does not call the engine. ``check`` opens the store, reads
all of it and holds it against that.
"""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import walkv
from tests.laboratory.damage.stores import (
    DIRECTORIES,
    OPENED_AFTER_SECONDS,
    ROOT,
    Files,
    Original,
    Piece,
    State,
)
from walkv.engine import segment
from walkv.engine.snapshot import layout
from walkv.testing import Disk, SimulatedFileSystem
from walkv.testing.medium import SimulatedFile
from walkv.testing.simulated import SimulatedHandle

Place = tuple[str, int | None]
"""A file below the directory, and an offset; None where there is none."""

MEMORY_FACTOR: Final = 24
MEMORY_BYTES: Final = 6 << 20
"""Opening and reading a store of n bytes takes at most n * MEMORY_FACTOR + MEMORY_BYTES at once:
the read buffers are 1 MiB each, and a decoded small entry is several times its bytes."""


class WrongError(AssertionError):
    """Another outcome than the right one."""


class SilentError(WrongError):
    """Wrong data was returned, or damage went unseen."""


class StuckError(WrongError):
    """It does not end."""


@contextmanager
def within_seconds(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, in time of this process and not by the clock on the wall.

    Raises:
        StuckError: inside, where it is at that moment.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise StuckError(f"not done after {seconds} seconds of work")

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Expected(NamedTuple):
    """The right outcome.

    Attributes:
        refusals: places one of which the refusal to open names; empty: it opens.
        anywhere: the refusal may name any file of the store, or the state be exact after all: what
            an older manifest leads to is found where its files are missing.
        pages: damaged pages, one of which reads and ``verify`` name.
        state: what a store that opens holds where it can be read.
        cut_bytes: what recovery reports to have cut.
        clean: recovery finds the mark of a clean close at the end.
        extras: files that recovery removes.
    """

    refusals: frozenset[Place]
    anywhere: bool
    pages: frozenset[Place]
    state: State
    cut_bytes: int
    clean: bool
    extras: frozenset[str]


class _Tail(NamedTuple):
    refusals: list[Place]
    frame_count: int
    cut_bytes: int
    clean: bool


def expect(original: Original, files: Files) -> Expected:
    """The right outcome for these files."""
    refusals: list[Place] = []
    pages: list[Place] = []
    tail = _Tail([], 0, 0, False)
    for name, right in original.files.items():
        found = files.get(name)
        if name == original.tail:
            tail = _expect_tail(original, found)
            refusals += tail.refusals
        elif name != "LOCK" and found != right:
            bad = _settled(original, name, found)
            same = found is not None and len(found) == len(right)
            if name.startswith("snapshots/") and same and bad[0][1] in _page_starts(original, name):
                pages += bad
            else:
                refusals += bad
    extras = files.keys() - original.files.keys()
    if any(
        name > original.tail and len(files[name]) > segment.HEADER_BYTES
        for name in extras
        if name.startswith("log/")
    ):
        # Nothing is written to a segment before the manifest names it.
        refusals.append(("MANIFEST", None))
    manifest = files.get("MANIFEST")
    older = manifest in original.history["MANIFEST"] and manifest != original.files["MANIFEST"]
    return Expected(
        frozenset(refusals),
        older,
        frozenset(pages),
        original.state(tail.frame_count),
        tail.cut_bytes,
        tail.clean,
        frozenset(extras),
    )


def _page_starts(original: Original, name: str) -> set[int]:
    return {piece.start for piece in original.pieces[name]}


def _settled(original: Original, name: str, found: bytes | None) -> list[Place]:
    """Where damage to any file but the tail and the lock is seen."""
    if found is None:
        return [(name, None)]
    if name == "MANIFEST":
        return [(name, 0), (name, None)]
    right = original.files[name]
    header = _header(original, name, found)
    if header:
        return header
    if name.startswith("log/"):
        pieces = original.pieces[name]
        whole = _whole(pieces, right, found)
        if whole == len(pieces) and not any(found[pieces[-1].stop :]):
            return []  # zeros behind a seal hide nothing
        return [(name, pieces[whole].start if whole < len(pieces) else pieces[-1].stop)]
    footer = len(right) - layout.FOOTER_BYTES
    if len(found) != len(right) or found[footer:] != right[footer:]:
        return [(name, max(len(found) - layout.FOOTER_BYTES, layout.HEADER_BYTES))]
    bad = [
        p.start for p in original.pieces[name] if found[p.start : p.stop] != right[p.start : p.stop]
    ]
    return [(name, start) for start in bad]


def _header(original: Original, name: str, found: bytes) -> list[Place]:
    """Headers of segments and snapshots are both of 64 bytes."""
    head = found[: segment.HEADER_BYTES]
    if head == original.files[name][: segment.HEADER_BYTES]:
        return []
    moved = head in original.headers and head[:8] == original.files[name][:8]
    return [(name, 16), (name, 40)] if moved else [(name, 0)]


def _whole(pieces: list[Piece], right: bytes, found: bytes) -> int:
    """How many frames from the first on are as they were."""
    for number, piece in enumerate(pieces):
        if found[piece.start : piece.stop] != right[piece.start : piece.stop]:
            return number
    return len(pieces)


def _expect_tail(original: Original, found: bytes | None) -> _Tail:
    name = original.tail
    right, pieces = original.files[name], original.pieces[name]
    if found is None:
        return _Tail([(name, None)], 0, 0, False)
    header = _header(original, name, found)
    if header:
        return _Tail(header, 0, 0, False)
    whole = _whole(pieces, right, found)
    end = pieces[whole - 1].stop if whole else segment.HEADER_BYTES
    rest = found[end:]
    torn = rest.count(0) != len(rest)
    sealed_before = original.sealed and whole == len(pieces) and torn
    promised = any(
        piece.synced_offset > end
        and found[piece.start : piece.stop] == right[piece.start : piece.stop]
        for piece in pieces[whole:]
    )
    refusals: list[Place] = [(name, end)] if promised or sealed_before else []
    clean = bool(whole) and pieces[whole - 1].close and not rest
    return _Tail(refusals, whole, len(rest) if torn else 0, clean)


# -- what does come of it ------------------------------------------------------------------------


class CountingFileSystem(SimulatedFileSystem):
    """Notes what is changed, and reads of more than the file has.

    Attributes:
        changes: operations that changed something, and their paths; the lock's left out.
        greedy: reads that asked for more bytes than their file's size.
    """

    def __init__(self, **options: int) -> None:
        super().__init__(seed=options.get("seed", 0))
        self.clock.wall_ns += OPENED_AFTER_SECONDS * 10**9
        self.changes: list[tuple[str, str]] = []
        self.greedy: list[str] = []
        self.on_operation = self._note

    def _note(self, operation: str, path: str) -> None:
        if path != f"{ROOT}/LOCK":
            self.changes.append((operation, path))

    def open(self, path: str, *, writable: bool = False) -> SimulatedHandle:
        return _CountingHandle(self, self._file(path), path, writable)


class _CountingHandle(SimulatedHandle):
    def __init__(
        self, fs: CountingFileSystem, file: SimulatedFile, path: str, writable: bool
    ) -> None:
        super().__init__(fs, file, path, writable)
        self._counting = fs

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        data = super().read(offset_bytes, size_bytes)
        if len(data) != size_bytes and size_bytes > max(self.size(), segment.HEADER_BYTES):
            self._counting.greedy.append(f"{size_bytes} bytes at {offset_bytes} of {self.path}")
        return data


class Outcome(NamedTuple):
    """What came of opening and reading.

    Attributes:
        error: why it was refused, by the open or by a scan.
        opened: it was not the open that refused.
    """

    fs: CountingFileSystem
    opened: bool = False
    state: State | None = None
    error: walkv.CorruptionError | walkv.FormatError | None = None
    store: walkv.Store | None = None


def boot(files: Files, missing: str = "") -> CountingFileSystem:
    """A machine with these files."""
    directories = frozenset(f"{ROOT}/{name}" for name in DIRECTORIES if name != missing)
    disk = Disk({f"{ROOT}/{name}": data for name, data in files.items()}, directories | {ROOT})
    return CountingFileSystem.after_power_failure(disk)  # type: ignore[return-value]


def attempt(files: Files, *, read_only: bool = False, missing: str = "") -> Outcome:
    """Open and scan; anything but a typed error escapes."""
    fs = boot(files, missing)
    try:
        store = walkv.open(ROOT, filesystem=fs, read_only=read_only, create=False)
    except (walkv.CorruptionError, walkv.FormatError) as error:
        # A refusal leaves everything as it was, and holds no lock.
        demand(not fs.changes, f"a refusal changed {fs.changes}")
        demand(not fs._locks, "a refusal left the lock behind")
        return Outcome(fs, error=error)
    try:
        return Outcome(fs, True, dict(store.scan()), None, store)
    except walkv.CorruptionError as error:
        return Outcome(fs, True, None, error, store)


def demand(truth: bool, what: str) -> None:
    if not truth:
        raise WrongError(what)


def demand_seen(truth: bool, what: str) -> None:
    if not truth:
        raise SilentError(what)


def check(
    original: Original, files: Files, *, thorough: bool, measured: bool, missing: str = ""
) -> str:
    """Hold a damaged store against what must come of it; returns the kind of outcome.

    Args:
        thorough: also open read-only, and recover a second time.
        measured: also measure the memory; slow.
        missing: a directory that is not there.
    Returns:
        "refused", "refused when read", "harmless" or "torn tail".
    Raises:
        WrongError: it is another outcome.
    """
    expected = expect(original, files)
    if measured:
        tracemalloc.start()
    try:
        outcome = attempt(files, missing=missing)
        kind = _judge(original, expected, outcome)
        if measured:
            size = sum(map(len, files.values()))
            peak = tracemalloc.get_traced_memory()[1]
            demand(
                peak <= size * MEMORY_FACTOR + MEMORY_BYTES, f"{peak} bytes of memory for {size}"
            )
    finally:
        if measured:
            tracemalloc.stop()
    demand(not outcome.fs.greedy, f"read past the file: {outcome.fs.greedy}")
    if thorough:
        _check_read_only(files, outcome, missing)
        if kind in ("harmless", "torn tail"):
            _check_final(expected, files, outcome)
    return kind


def _judge(original: Original, expected: Expected, outcome: Outcome) -> str:
    if not outcome.opened:
        _judge_refusal(original, expected, outcome.error)
        return "refused"
    if expected.anywhere:
        demand_seen(outcome.state == original.final, "an older manifest was believed")
    else:
        demand_seen(
            not expected.refusals, f"opened, and {sorted(expected.refusals, key=str)} is damaged"
        )
    _judge_reads(original, expected, outcome)
    if expected.pages:
        return "refused when read"
    report = outcome.store.recovery_report if outcome.store is not None else walkv.RecoveryReport()
    if not expected.anywhere:
        demand(
            report.cut_bytes == expected.cut_bytes,
            f"cut {report.cut_bytes} bytes, not {expected.cut_bytes}",
        )
        demand(report.clean == expected.clean, f"clean is {report.clean}")
        removed = {path.removeprefix(f"{ROOT}/") for path in report.removed_files}
        demand(
            removed == expected.extras, f"removed {sorted(removed)}, not {sorted(expected.extras)}"
        )
    return "harmless" if expected.state == original.final else "torn tail"


def _judge_refusal(original: Original, expected: Expected, error: Exception | None) -> None:
    place = _place(error)
    if expected.anywhere:
        demand(place[0] in {*original.files, *original.history}, f"refused by {place}")
        return
    demand(bool(expected.refusals), f"refused without need: {error}")
    demand(
        place in expected.refusals,
        f"refused by {place}, not by {sorted(expected.refusals, key=str)}",
    )


def _place(error: Exception | None) -> Place:
    path = getattr(error, "path", "").removeprefix(f"{ROOT}/")
    return path, getattr(error, "offset_bytes", None)


def _judge_reads(original: Original, expected: Expected, outcome: Outcome) -> None:
    """Scans, look-ups and ``verify``: the exact state, or a refusal that names a damaged page."""
    store = outcome.store
    assert store is not None
    verified = store.verify()
    problems = {_place(problem) for problem in verified.problems}
    if not expected.anywhere:
        names = {name for name, _ in expected.pages}
        demand_seen(
            {name for name, _ in problems} == names, f"verify found {problems}, not {names}"
        )
        demand(problems <= expected.pages, f"verify found {problems}, not {expected.pages}")
    _judge_scan(expected, outcome.state, outcome.error)
    try:
        backward: State | None = dict(store.scan(reverse=True))
        error: Exception | None = None
        demand_seen(store.count() == len(expected.state), "count() is wrong")
    except walkv.CorruptionError as refused:
        backward, error = None, refused
    _judge_scan(expected, backward, error)
    # Not all of them each time: a damaged page refuses again and again.
    for key in original.probes[sum(expected.state.get(b"n", b"")) % 2 :: 2]:
        try:
            value = store.get(key)
        except walkv.CorruptionError as refused:
            _judge_scan(expected, None, refused)
            continue
        demand_seen(value == expected.state.get(key), f"get({key!r}) gave {value!r}")


def _judge_scan(expected: Expected, state: State | None, error: Exception | None) -> None:
    if error is not None:
        demand(_place(error) in expected.pages, f"a read was refused by {_place(error)}: {error}")
    else:
        demand_seen(state == expected.state, _difference(state or {}, expected.state))


def _difference(found: State, right: State) -> str:
    wrong = sorted(key for key in found.keys() | right.keys() if found.get(key) != right.get(key))
    return f"another state: {len(wrong)} keys differ, {wrong[:5]}"


def _check_read_only(files: Files, outcome: Outcome, missing: str) -> None:
    """A read-only open reaches the same verdict and writes nothing."""
    other = attempt(files, read_only=True, missing=missing)
    demand(not other.fs.changes, f"a read-only open changed {other.fs.changes}")
    demand(not other.fs.greedy, f"read past the file: {other.fs.greedy}")
    one = (type(outcome.error), _place(outcome.error), outcome.opened)
    two = (type(other.error), _place(other.error), other.opened)
    demand(one == two, f"read-only {two}, and for writing {one}")
    demand_seen(outcome.state == other.state, "another state read-only")


def _check_final(expected: Expected, files: Files, outcome: Outcome) -> None:
    """What recovery cut stays cut and was saved: killed right after it, the store is the same."""
    twin = outcome.fs.after_kill()
    twin.clock.wall_ns = outcome.fs.clock.wall_ns
    store = walkv.open(ROOT, filesystem=twin, create=False)
    demand_seen(dict(store.scan()) == outcome.state, "another state after a second recovery")
    demand(store.recovery_report.cut_bytes == 0, "a second recovery cut something")
    saved = [
        data
        for path, data in twin.visible().files.items()
        if path.startswith(f"{ROOT}/quarantine/") and path.removeprefix(f"{ROOT}/") not in files
    ]
    lengths = [len(data) for data in saved]
    demand(lengths == [expected.cut_bytes] * bool(expected.cut_bytes), f"saved {lengths} bytes")
    demand(all(any(data in each for each in files.values()) for data in saved), "saved other bytes")
