"""A file system in memory that knows what a power failure may leave behind.

Model, per file: the bytes of the last sync, and the writes and truncates since, in order. A crash
leaves the synced bytes with any of: none of them, a prefix of them, the last of that prefix torn,
the file grown to its new size but full of zeros, or a hole where one of them (or the head of one)
did not arrive. Per directory: the names of its last sync, and the creations, renames and unlinks
since; a crash leaves a prefix of those, independently of every other directory.

Neither does the sync of a file make its name durable, nor that of a directory the bytes in it.
"""

from __future__ import annotations

import itertools
import posixpath
import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from support.clock import ManualClock
from walkv.engine.vfs import LockHeldError

T = TypeVar("T")

_TRUNCATE: Final = None
_MAX_COMBINATIONS: Final = 48
_DETAILED_WRITES: Final = 3
"""Of a long row of unsynced writes, so many at each end are torn and left out."""


class Disk(NamedTuple):
    """A state of the medium: bytes of each file, and the directories."""

    files: dict[str, bytes]
    directories: frozenset[str]

    def key(self) -> tuple[object, ...]:
        """Equal for equal states."""
        return (tuple(sorted(self.files.items())), self.directories)


class _File:
    def __init__(self, number: int, data: bytes = b"") -> None:
        self.number = number
        self.data = bytearray(data)
        self.base = data
        self.pending: list[tuple[int, bytes | None]] = []
        self.links = 1
        self.version = 0

    def copy(self) -> _File:
        twin = _File(self.number)
        twin.data = bytearray(self.data)
        twin.base = self.base
        twin.pending = list(self.pending)
        twin.links = self.links
        return twin

    def apply(self, offset: int, data: bytes | None) -> None:
        _apply(self.data, offset, data)
        self.pending.append((offset, data))
        self.version += 1

    def sync(self) -> None:
        if self.pending:
            self.base = bytes(self.data)
            self.pending = []

    def variants(self) -> list[bytes]:
        """What a crash may leave of the file."""
        pending = self.pending
        if not pending:
            return [self.base]
        count = len(pending)
        full = bytes(self.data)
        found: dict[bytes, None] = {self.base: None}
        detailed = {*range(_DETAILED_WRITES), *range(count - _DETAILED_WRITES, count)}
        state = bytearray(self.base)
        for number, (offset, data) in enumerate(pending):
            found[bytes(state)] = None
            if number in detailed and data is not _TRUNCATE:
                for torn in _tears(data):
                    part = bytearray(state)
                    _apply(part, offset, torn)
                    found[bytes(part)] = None
                # The head of the write is missing, its end arrived.
                middle = (len(data) + 1) // 2
                part = bytearray(state)
                _apply(part, offset + middle, data[middle:])
                found[bytes(part)] = None
            if number in detailed and count > 1:
                part = bytearray(self.base)
                for other, (at, piece) in enumerate(pending):
                    if other != number:
                        _apply(part, at, piece)
                found[bytes(part)] = None
            _apply(state, offset, data)
        if len(full) > len(self.base):
            found[self.base + bytes(len(full) - len(self.base))] = None
        # The first is "nothing arrived", the last "everything did"; see ``_combinations``.
        found.pop(full, None)
        return [*found, full]


class _Directory:
    def __init__(self) -> None:
        self.entries: dict[str, _File | _Directory] = {}
        self.base: dict[str, _File | _Directory] = {}
        self.pending: list[list[tuple[str, _File | _Directory | None]]] = []

    def apply(self, *changes: tuple[str, _File | _Directory | None]) -> None:
        _apply_names(self.entries, changes)
        self.pending.append(list(changes))

    def sync(self) -> None:
        self.base = dict(self.entries)
        self.pending = []

    def variants(self) -> list[dict[str, _File | _Directory]]:
        """The names a crash may leave: the synced ones, and a prefix of what came after."""
        state = dict(self.base)
        found = [dict(state)]
        for changes in self.pending:
            _apply_names(state, changes)
            found.append(dict(state))
        return found


def _apply(state: bytearray, offset: int, data: bytes | None) -> None:
    if data is _TRUNCATE:
        if offset < len(state):
            del state[offset:]
        else:
            state += bytes(offset - len(state))
        return
    if not data:
        return
    if len(state) < offset:
        state += bytes(offset - len(state))
    state[offset : offset + len(data)] = data


def _apply_names(
    names: dict[str, _File | _Directory],
    changes: list[tuple[str, _File | _Directory | None]]
    | tuple[tuple[str, _File | _Directory | None], ...],
) -> None:
    for name, node in changes:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _tears(data: bytes) -> list[bytes]:
    sizes = {1, len(data) // 2, len(data) - 1, 512}
    return [data[:size] for size in sorted(sizes) if 0 < size < len(data)]


class CrashFileSystem:
    """See the module. Without threads, with its own clock and its own randomness.

    Attributes:
        on_operation: called with the operation and its path after every change or sync.
        operation_count: changes and syncs so far.
    """

    threads = False

    def __init__(self, *, clock: ManualClock | None = None, seed: int = 0) -> None:
        self.clock = ManualClock() if clock is None else clock
        self.on_operation: Callable[[str, str], None] | None = None
        self.operation_count = 0
        self._root = _Directory()
        self._numbers = itertools.count(1)
        self._random = random.Random(seed)
        self._locks: set[str] = set()
        self._dead = False

    @classmethod
    def after_power_failure(cls, disk: Disk, *, seed: int = 0) -> CrashFileSystem:
        """A machine that starts again with what is on the medium."""
        fs = cls(seed=seed)
        for path in sorted(disk.directories):
            fs._make(path)
        for path, data in disk.files.items():
            directory, name = fs._parent(path)
            directory.entries[name] = _File(next(fs._numbers), data)
        for directory in fs._directories():
            directory.sync()
        return fs

    def after_kill(self) -> CrashFileSystem:
        """The machine after ``kill -9`` of the process: nothing is lost, nothing is synced."""
        twin = CrashFileSystem(seed=len(self.snapshot().files))
        twin._random.setstate(self._random.getstate())
        twin.clock.wall_ns = self.clock.wall_ns
        twin._numbers = itertools.count(next(self._numbers))
        copies: dict[int, _File | _Directory] = {}

        def copy(node: _File | _Directory) -> _File | _Directory:
            if id(node) in copies:
                return copies[id(node)]
            if isinstance(node, _File):
                copies[id(node)] = made = node.copy()
                return made
            directory = _Directory()
            copies[id(node)] = directory
            directory.entries = {name: copy(child) for name, child in node.entries.items()}
            directory.base = {name: copy(child) for name, child in node.base.items()}
            directory.pending = [
                [(name, None if child is None else copy(child)) for name, child in changes]
                for changes in node.pending
            ]
            return directory

        root = copy(self._root)
        assert isinstance(root, _Directory)
        twin._root = root
        return twin

    def kill(self) -> None:
        """No handle of this machine works from now on."""
        self._dead = True

    # -- crash states ----------------------------------------------------------------------------

    def crash_states(self, chooser: random.Random) -> Iterator[Disk]:
        """States that a power failure now may leave; a sample where there are very many."""
        for choice in self._directory_choices(chooser):
            files: dict[str, _File] = {}
            directories: set[str] = set()
            self._walk("/", self._root, choice, files, directories)
            kept = frozenset(directories)
            uncertain = [path for path, file in files.items() if file.pending]
            settled = {path: file.base for path, file in files.items() if not file.pending}
            options = [files[path].variants() for path in uncertain]
            for picked in _combinations(options, chooser):
                yield Disk({**settled, **dict(zip(uncertain, picked, strict=True))}, kept)

    def _directory_choices(self, chooser: random.Random) -> Iterator[dict[int, dict[str, object]]]:
        uncertain = [d for d in self._directories() if d.pending]
        options = [directory.variants() for directory in uncertain]
        for picked in _combinations(options, chooser):
            yield {
                id(directory): dict(names)
                for directory, names in zip(uncertain, picked, strict=True)
            }

    def _walk(
        self,
        path: str,
        directory: _Directory,
        choice: dict[int, dict[str, object]],
        files: dict[str, _File],
        directories: set[str],
    ) -> None:
        for name, node in choice.get(id(directory), directory.entries).items():
            inside = posixpath.join(path, name)
            if isinstance(node, _File):
                files[inside] = node
            else:
                assert isinstance(node, _Directory)
                directories.add(inside)
                self._walk(inside, node, choice, files, directories)

    def _directories(self) -> list[_Directory]:
        found = [self._root]
        for directory in found:
            nodes = [*directory.entries.values(), *directory.base.values()]
            nodes += [n for changes in directory.pending for _, n in changes if n is not None]
            for node in nodes:
                if isinstance(node, _Directory) and all(node is not known for known in found):
                    found.append(node)
        return found

    def snapshot(self) -> Disk:
        """What a process sees now."""
        files: dict[str, _File] = {}
        directories: set[str] = set()
        self._walk("/", self._root, {}, files, directories)
        return Disk({p: bytes(f.data) for p, f in files.items()}, frozenset(directories))

    # -- the tree --------------------------------------------------------------------------------

    def _done(self, operation: str, path: str) -> None:
        self.operation_count += 1
        if self.on_operation is not None:
            self.on_operation(operation, path)

    def _alive(self) -> None:
        if self._dead:
            raise AssertionError("a killed process called the operating system")

    def _node(self, path: str) -> _File | _Directory:
        self._alive()
        node: _File | _Directory = self._root
        for name in path.split("/")[1:]:
            if not name:
                continue
            if not isinstance(node, _Directory):
                raise NotADirectoryError(20, "Not a directory", path)
            if name not in node.entries:
                raise FileNotFoundError(2, "No such file or directory", path)
            node = node.entries[name]
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise NotADirectoryError(20, "Not a directory", path)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        head, name = posixpath.split(path)
        return self._directory(head), name

    def _file(self, path: str) -> _File:
        node = self._node(path)
        if not isinstance(node, _File):
            raise IsADirectoryError(21, "Is a directory", path)
        return node

    def _make(self, path: str) -> bool:
        made = False
        node = self._root
        for name in path.split("/")[1:]:
            child = node.entries.get(name)
            if child is None:
                child = _Directory()
                node.apply((name, child))
                made = True
            if not isinstance(child, _Directory):
                raise NotADirectoryError(20, "Not a directory", path)
            node = child
        return made

    # -- the FileSystem protocol -----------------------------------------------------------------

    def open(self, path: str, *, writable: bool = False) -> _Handle:
        return _Handle(self, self._file(path), path, writable)

    def create(self, path: str) -> _Handle:
        directory, name = self._parent(path)
        if name in directory.entries:
            raise FileExistsError(17, "File exists", path)
        file = _File(next(self._numbers))
        directory.apply((name, file))
        self._done("create", path)
        return _Handle(self, file, path, True)

    def read_file(self, path: str, max_bytes: int) -> bytes:
        return bytes(self._file(path).data[:max_bytes])

    def list(self, directory: str) -> list[str]:
        return sorted(self._directory(directory).entries)

    def is_directory(self, path: str) -> bool:
        try:
            return isinstance(self._node(path), _Directory)
        except OSError:
            return False

    def make_directory(self, path: str) -> None:
        self._alive()
        if self._make(path):
            self._done("make_directory", path)

    def rename(self, source: str, target: str) -> None:
        directory, name = self._parent(source)
        other, new_name = self._parent(target)
        assert directory is other, "the model knows renames within a directory only"
        node = self._file(source)
        replaced = directory.entries.get(new_name)
        if isinstance(replaced, _File):
            replaced.links -= 1
        directory.apply((name, None), (new_name, node))
        self._done("rename", target)

    def unlink(self, path: str) -> None:
        file = self._file(path)
        directory, name = self._parent(path)
        file.links -= 1
        directory.apply((name, None))
        self._done("unlink", path)

    def sync_directory(self, path: str) -> None:
        self._directory(path).sync()
        self._done("sync_directory", path)

    def fingerprint(self, path: str) -> tuple[int, ...]:
        file = self._file(path)
        return (file.number, len(file.data), file.version)

    def lock(self, path: str) -> _Lock:
        if path in self._locks:
            raise LockHeldError({"pid": 1, "host": "simulated"})
        directory, name = self._parent(path)
        if name not in directory.entries:
            directory.apply((name, _File(next(self._numbers))))
            self._done("create", path)
        self._locks.add(path)
        file = self._file(path)
        return _Lock(self, file, path)

    def join(self, *parts: str) -> str:
        return posixpath.join(*parts)

    def parent(self, path: str) -> str:
        return posixpath.dirname(path)

    def absolute(self, path: str) -> str:
        return posixpath.normpath(posixpath.join("/", path))

    def wall_time_ns(self) -> int:
        return self.clock.wall_ns

    def monotonic(self) -> float:
        return self.clock.monotonic_seconds

    def random_bytes(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)

    def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def network_name(self, path: str) -> str | None:
        return None

    def on_fork(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def _combinations(options: list[list[T]], chooser: random.Random) -> Iterator[tuple[T, ...]]:
    total = 1
    for choices in options:
        total *= len(choices)
    if total <= _MAX_COMBINATIONS:
        yield from itertools.product(*options)
        return
    # Each choice once while the others are as they were, or all there; then some at random.
    for index, choices in enumerate(options):
        for choice in choices:
            for others in (0, -1):
                picked = [o[others] for o in options]
                picked[index] = choice
                yield tuple(picked)
    for _ in range(_MAX_COMBINATIONS // 2):
        yield tuple(chooser.choice(choices) for choices in options)


class _Lock:
    def __init__(self, fs: CrashFileSystem, file: _File, path: str) -> None:
        self._fs = fs
        self._node = file
        self._path = path

    def valid(self) -> bool:
        try:
            return self._fs._node(self._path) is self._node
        except OSError:
            return False

    def release(self) -> None:
        self._fs._locks.discard(self._path)


class _Handle:
    def __init__(self, fs: CrashFileSystem, file: _File, path: str, writable: bool) -> None:
        self._fs = fs
        self._node = file
        self._writable = writable
        self._closed = False
        self.path = path

    def _open(self) -> _File:
        self._fs._alive()
        if self._closed:
            raise OSError(9, "Bad file descriptor", self.path)
        return self._node

    def _open_to_write(self) -> _File:
        file = self._open()
        if not self._writable:
            raise OSError(9, "Bad file descriptor", self.path)
        return file

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        return bytes(self._open().data[offset_bytes : offset_bytes + size_bytes])

    def write(self, data: bytes, offset_bytes: int) -> None:
        self._open_to_write().apply(offset_bytes, bytes(data))
        self._fs._done("write", self.path)

    def size(self) -> int:
        return len(self._open().data)

    def truncate(self, size_bytes: int) -> None:
        self._open_to_write().apply(size_bytes, _TRUNCATE)
        self._fs._done("truncate", self.path)

    def sync_data(self) -> None:
        self._open().sync()
        self._fs._done("sync_data", self.path)

    def sync(self) -> None:
        self._open().sync()
        self._fs._done("sync", self.path)

    def link_count(self) -> int:
        return self._open().links

    def close(self) -> None:
        self._closed = True
