"""Which calls fail, as text, and the file system that fails them one after the other.

A *spot* names one call by what it does and to what, not by its number among all calls, so that it
can still be found in a workload that was cut down:

    EIO once write wal 3            the third write to a segment, this once
    ENOSPC forever create snap 1    the first creation of a snapshot, and all that takes space
    short once write MANIFEST.tmp 1 half of it is written, then ENOSPC; ``shortEIO``: then EIO

A case is a policy, spots with ``+`` between them, and steps: ``Wal EIO once sync_data wal 2: put a;
put b``. A later spot is counted from where the one before it failed or was healed.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final, NamedTuple

from tests.laboratory.steps import PATH, POLICIES, parse
from walkv.testing import Call, Fault, FaultyFileSystem, SimulatedFileSystem
from walkv.testing.faults import SYNCS

KINDS: Final[dict[str, tuple[int, bool]]] = {
    "EIO": (errno.EIO, False),
    "ENOSPC": (errno.ENOSPC, False),
    "EDQUOT": (errno.EDQUOT, False),
    "short": (errno.ENOSPC, True),
    "shortEIO": (errno.EIO, True),
}
CHANGES: Final = frozenset(("write", "truncate", "create", "rename", "make_directory", "unlink"))
LASTING: Final = ("once", "forever")
_OWN: Final = frozenset(("LOCK", "MANIFEST", "MANIFEST.tmp", "log", "snapshots", "quarantine"))
_ENGINE: Final = "/walkv/engine/"
_NOT_CALLERS: Final = ("/vfs.py", "/shield.py")


def file_kind(path: str) -> str:
    """What a path is about, in one word."""
    name = path.rpartition("/")[2]
    if name in _OWN:
        return name
    if path == PATH:
        return "store"
    _, dot, suffix = name.rpartition(".")
    return suffix if dot else "above"


class Spot(NamedTuple):
    """A call that fails.

    Attributes:
        kind: one of ``KINDS``.
        lasting: ``once`` or ``forever``.
        operation: of the file system.
        file: see ``file_kind``.
        nth: among the calls of that operation on that kind of file, from 1.
    """

    kind: str
    lasting: str
    operation: str
    file: str
    nth: int

    @classmethod
    def parse(cls, text: str) -> Spot:
        kind, lasting, operation, file, nth = text.split()
        if kind not in KINDS or lasting not in LASTING:
            raise ValueError(f"no fault {text!r}")
        return cls(kind, lasting, operation, file, int(nth))

    def __str__(self) -> str:
        return " ".join(map(str, self))

    @property
    def forever(self) -> bool:
        return self.lasting == "forever"

    def fault(self) -> Fault:
        seen = 0

        def at(call: Call) -> bool:
            nonlocal seen
            seen += (call.operation, file_kind(call.path)) == (self.operation, self.file)
            return seen == self.nth

        code, short = KINDS[self.kind]
        return Fault(at, code, forever=self.forever, short=short)


class Case(NamedTuple):
    """One run: a policy, what fails, and the workload."""

    policy: str
    spots: tuple[Spot, ...]
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Case:
        head, _, steps = text.partition(":")
        policy, _, spots = head.strip().partition(" ")
        if policy not in POLICIES:
            raise ValueError(f"{policy!r} is no policy; there are {', '.join(POLICIES)}")
        chosen = tuple(Spot.parse(part) for part in spots.split("+") if part.strip())
        return cls(policy, chosen, tuple(parse(steps)))

    def __str__(self) -> str:
        head = " ".join([self.policy, " + ".join(map(str, self.spots))]).strip()
        return f"{head}: {'; '.join(self.steps)}"


def spots_of(operation: str, file: str, nth: int) -> list[Spot]:
    """Every way in which a call can fail."""
    kinds = ["EIO"]
    if operation in CHANGES or operation in SYNCS or operation == "lock":
        kinds += ["ENOSPC", "EDQUOT"]
    if operation == "write":
        kinds += ["short", "shortEIO"]
    return [Spot(kind, last, operation, file, nth) for kind in kinds for last in LASTING]


def places(calls: list[Call]) -> list[tuple[str, str, int]]:
    """The calls of a run by operation, kind of file, and number among those, in order."""
    seen: dict[tuple[str, str], int] = {}
    found = []
    for call in calls:
        key = call.operation, file_kind(call.path)
        seen[key] = seen.get(key, 0) + 1
        found.append((*key, seen[key]))
    return found


class FaultScript(FaultyFileSystem):
    """Fails several calls, each once the fault before it is over.

    Attributes:
        fired: the first call that each of the faults so far has failed.
        lasting: a fault that goes on for ever has begun and was not healed.
    """

    def __init__(self, base: SimulatedFileSystem, spots: tuple[Spot, ...]) -> None:
        super().__init__(base, threads=False)
        self._rest = [spot.fault() for spot in spots]
        self._on = False
        self.fired: list[Call] = []
        self._next()

    def _next(self) -> None:
        self._on = False
        self.fault = self._rest.pop(0) if self._rest else None

    def heal(self) -> None:
        super().heal()
        self._next()

    @property
    def lasting(self) -> bool:
        return self._on and self.fault is not None and self.fault.forever

    @property
    def over(self) -> bool:
        """Whether nothing will fail any more."""
        return self.fault is None or (self._on and not self.lasting and not self._rest)

    def check(self, operation: str, path: str) -> OSError | None:
        if self._on and not self.lasting and not self.paused:
            self.heal()
        failed_count = len(self.failed_calls)
        error = super().check(operation, path)
        if len(self.failed_calls) > failed_count and not self._on:
            self._on = True
            self.fired.append(self.failed_calls[-1])
        return error


def note_sites(sites: set[tuple[str, str, str]]) -> Callable[[Call], None]:
    """For ``FaultyFileSystem.before``: collects (operation, kind of file, engine function)."""

    def note(call: Call) -> None:
        sites.add((call.operation, file_kind(call.path), _caller(sys._getframe(1))))

    return note


def _caller(frame: FrameType | None) -> str:
    while frame is not None:
        file = frame.f_code.co_filename.replace("\\", "/")
        name = frame.f_code.co_qualname
        anonymous = "<lambda>" in name or "<locals>" in name
        if _ENGINE in file and not file.endswith(_NOT_CALLERS) and not anonymous:
            return f"{file.partition(_ENGINE)[2]}:{name}"
        frame = frame.f_back
    return "?"
