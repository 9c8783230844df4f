"""What a power failure may leave of one file and of one directory.

A file is its bytes on the medium and the writes and truncates since, in order. A crash leaves:

    none            the bytes of the last sync
    prefix          the first n of the writes
    torn            the first n, and of the next one 1 byte, half, all but one, or 512 bytes
    zero head       the first n, and of the next one only its second half
    hole            all but one of them
    zero tail       the first n, and the file's new size full of zeros
    later pages     all of it behind a page boundary, and before it the first n of the writes

Of a long row of writes the first and the last few are torn and left out; prefixes are always all.

A directory is its names of the last sync, and the creations, renames and unlinks since. A crash
leaves a prefix of those; of up to five, any subset.

Invariants:
    1. The first variant is "nothing arrived", the last one "everything did".
    2. A sync makes durable what was written since the last sync that ended well. What a failed sync
       has lost stays readable, and no later sync brings it to the medium: the kernel has marked
       those pages clean.

Source: ALICE (OSDI'14) for what file systems reorder, "Can Applications Recover from fsync
Failures?" (ATC'20) for invariant 2, CrashMonkey (OSDI'18) for enumerating at every operation.
"""

from __future__ import annotations

from itertools import combinations
from random import Random
from typing import Final

TRUNCATE: Final = None
"""In the place of a write's data: the file was cut, or filled with zeros, to the offset."""

SECTOR_BYTES: Final = 512
"""Real pages are 4 KiB. Smaller ones leave every state of those, and more, of the small files that
a simulation writes."""

_DETAILED_WRITES: Final = 3
_SUBSETS_OF: Final = 5


class SimulatedFile:
    """One inode.

    Attributes:
        number: of the inode.
        data: what a process reads.
        base: what is on the medium for sure.
        pending: (offset, data or TRUNCATE) since the last sync.
        links: names it has.
        version: changes with every write.
    """

    __slots__ = ("_lost", "base", "data", "links", "number", "pending", "version")

    def __init__(self, number: int, data: bytes = b"") -> None:
        self.number = number
        self.data = bytearray(data)
        self.base = data
        self.pending: list[tuple[int, bytes | None]] = []
        self.links = 1
        self.version = 0
        self._lost = False

    def copy(self, *, evicted: bool) -> SimulatedFile:
        """As another process finds it; ``evicted``: lost pages are read from the medium again."""
        twin = SimulatedFile(self.number)
        twin.base = self.base
        twin.pending = list(self.pending)
        twin.links = self.links
        twin._lost = self._lost and not evicted
        twin.data = bytearray(self._written_over_base() if evicted else self.data)
        return twin

    def apply(self, offset: int, data: bytes | None) -> None:
        apply_write(self.data, offset, data)
        self.pending.append((offset, data))
        self.version += 1

    def sync(self) -> None:
        if self.pending:
            self.base = bytes(self._written_over_base() if self._lost else self.data)
            self.pending = []

    def lose_unsynced(self, chooser: Random) -> None:
        """A sync fails: some of what it should have covered is on the medium, the rest never."""
        state = bytearray(self.base)
        for offset, data in self.pending:
            if chooser.random() < 0.5:
                apply_write(state, offset, data)
        self.base = bytes(state)
        self.pending = []
        self._lost = self._lost or self.base != self.data

    def _written_over_base(self) -> bytearray:
        state = bytearray(self.base)
        for offset, data in self.pending:
            apply_write(state, offset, data)
        return state

    def variants(self) -> list[bytes]:
        """What a crash may leave of the bytes."""
        if not self.pending:
            return [self.base]
        full = bytes(self._written_over_base() if self._lost else self.data)
        found = dict.fromkeys([self.base])
        found.update(dict.fromkeys(self._prefixes(full)))
        found.update(dict.fromkeys(self._later_pages(full)))
        found.pop(full, None)
        return [*found, full]

    def _prefixes(self, full: bytes) -> list[bytes]:
        pending = self.pending
        count = len(pending)
        detailed = set(_ends(range(count)))
        found = []
        state = bytearray(self.base)
        for number, (offset, data) in enumerate(pending):
            found.append(bytes(state))
            if number in detailed:
                if len(full) > len(state):
                    found.append(bytes(state) + bytes(len(full) - len(state)))
                if data is not TRUNCATE:
                    for start, stop in _tears(len(data)):
                        part = bytearray(state)
                        apply_write(part, offset + start, data[start:stop])
                        found.append(bytes(part))
                if count > 1:
                    found.append(self._without(number))
            apply_write(state, offset, data)
        return found

    def _without(self, left_out: int) -> bytes:
        part = bytearray(self.base)
        for number, (offset, data) in enumerate(self.pending):
            if number != left_out:
                apply_write(part, offset, data)
        return bytes(part)

    def _later_pages(self, full: bytes) -> list[bytes]:
        written = [(at, at + len(data)) for at, data in self.pending if data]
        if not written:
            return []
        first = min(start for start, _ in written) // SECTOR_BYTES + 1
        last = (max(stop for _, stop in written) - 1) // SECTOR_BYTES
        pages = _ends(range(first, last + 1))
        if not pages:
            return []
        found = []
        detailed = set(_ends(range(len(self.pending))))
        state = bytearray(self.base)
        for number, (offset, data) in enumerate(self.pending):
            if number in detailed:
                old = bytes(state) + bytes(max(len(full) - len(state), 0))
                found += [
                    old[: page * SECTOR_BYTES] + full[page * SECTOR_BYTES :] for page in pages
                ]
            apply_write(state, offset, data)
        return found


def _ends(numbers: range) -> list[int]:
    """All of a short row, the first and the last few of a long one."""
    if len(numbers) <= 2 * _DETAILED_WRITES:
        return list(numbers)
    return [*numbers[:_DETAILED_WRITES], *numbers[-_DETAILED_WRITES:]]


class SimulatedDirectory:
    """Names, those of the last sync, and the changes since: rows of (name, node or None)."""

    __slots__ = ("base", "entries", "pending")

    def __init__(self) -> None:
        self.entries: Names = {}
        self.base: Names = {}
        self.pending: list[tuple[Change, ...]] = []

    def apply(self, *changes: Change) -> None:
        _apply_names(self.entries, changes)
        self.pending.append(changes)

    def sync(self) -> None:
        self.base = dict(self.entries)
        self.pending = []

    def variants(self) -> list[Names]:
        """The names a crash may leave."""
        pending = self.pending
        count = len(pending)
        chosen = [tuple(range(length)) for length in range(count + 1)]
        if 1 < count <= _SUBSETS_OF:
            known = set(chosen)
            every = (c for size in range(1, count) for c in combinations(range(count), size))
            chosen[-1:-1] = [numbers for numbers in every if numbers not in known]
        found = []
        for numbers in chosen:
            names = dict(self.base)
            for number in numbers:
                _apply_names(names, pending[number])
            found.append(names)
        # A name created and removed again leads to the same names more than once.
        return [*_distinct(found[:-1], found[-1]), found[-1]]


Node = SimulatedFile | SimulatedDirectory
Names = dict[str, Node]
Change = tuple[str, Node | None]


def apply_write(state: bytearray, offset: int, data: bytes | None) -> None:
    """Do a write, or a truncate, to bytes."""
    if data is TRUNCATE:
        if offset < len(state):
            del state[offset:]
        else:
            state += bytes(offset - len(state))
    elif data:
        if len(state) < offset:
            state += bytes(offset - len(state))
        state[offset : offset + len(data)] = data


def _apply_names(names: Names, changes: tuple[Change, ...]) -> None:
    for name, node in changes:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _distinct(found: list[Names], last: Names) -> list[Names]:
    seen = {_identity(last)}
    kept = []
    for names in found:
        identity = _identity(names)
        if identity not in seen:
            seen.add(identity)
            kept.append(names)
    return kept


def _identity(names: Names) -> frozenset[tuple[str, int]]:
    return frozenset((name, id(node)) for name, node in names.items())


def _tears(size: int) -> list[tuple[int, int]]:
    """Parts of a write that may arrive alone: its beginnings, and its second half."""
    stops = sorted({1, size // 2, size - 1, SECTOR_BYTES})
    return [(0, stop) for stop in stops if 0 < stop < size] + [((size + 1) // 2, size)]
