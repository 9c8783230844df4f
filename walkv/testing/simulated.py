"""A file system in memory that knows what a power failure may leave behind.

``SimulatedFileSystem`` is a ``FileSystem``: give it to ``walkv.open(..., filesystem=...)``. After
any operation ``crash_states`` lists the ``Disk``s that a power failure at that moment may leave,
and ``after_power_failure`` starts a machine from one of them. What may be left, ``medium`` tells.

Each file and each directory is uncertain for itself: neither does the sync of a file make its name
durable, nor that of a directory the bytes of the files in it, nor is there an order between two.

    >>> import walkv
    >>> fs = SimulatedFileSystem()
    >>> store = walkv.open("/s", filesystem=fs)
    >>> _ = store.put(b"k", b"kept")
    >>> for disk in fs.crash_states():
    ...     after = SimulatedFileSystem.after_power_failure(disk)
    ...     assert walkv.open("/s", filesystem=after)[b"k"] == b"kept"
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, NamedTuple, TypeVar

from xxhash import xxh3_64_digest

from walkv.engine.vfs import LockHeldError, Window
from walkv.testing.clock import ManualClock
from walkv.testing.medium import TRUNCATE, Names, SimulatedDirectory, SimulatedFile
from walkv.testing.windows import WritingWindow

T = TypeVar("T")

_MAX_COMBINATIONS: Final = 48


class Disk(NamedTuple):
    """A state of the medium: bytes of each file by path, and the directories."""

    files: dict[str, bytes]
    directories: frozenset[str]

    def digest(self) -> bytes:
        """Eight bytes that are equal for equal states."""
        parts = []
        for path in sorted(self.files):
            data = self.files[path]
            parts += [path.encode(), b"%d" % len(data), data]
        parts += [path.encode() for path in sorted(self.directories)]
        return xxh3_64_digest(b"\0".join(parts))


class SimulatedFileSystem:
    """See the module. Without threads, with its own clock and its own randomness.

    Attributes:
        threads: whether the engine may start threads; see ``FileSystem``. False, so that
            everything happens in the caller and at the same points every time.
        clock: the time that the engine sees.
        on_operation: called with the operation and its path after every change or sync.
        operation_count: changes and syncs so far.
        free: bytes that the disk says are free; nothing is refused when it is full.
    """

    def __init__(self, *, clock: ManualClock | None = None, seed: int = 0) -> None:
        self.threads = False
        self.clock = ManualClock() if clock is None else clock
        self.on_operation: Callable[[str, str], None] | None = None
        self.operation_count = 0
        self.free = 1 << 40
        self._directories: dict[str, SimulatedDirectory] = {"/": SimulatedDirectory()}
        self._numbers = itertools.count(1)
        self._random = Random(seed)
        self._locks: set[str] = set()
        self._dead = False

    @classmethod
    def after_power_failure(cls, disk: Disk, *, seed: int = 0) -> SimulatedFileSystem:
        """A machine that starts again with what is on the medium."""
        fs = cls(seed=seed)
        for path in sorted(disk.directories):
            fs._make(path)
        for path, data in disk.files.items():
            head, _, name = path.rpartition("/")
            fs._directories[head or "/"].entries[name] = SimulatedFile(next(fs._numbers), data)
        for directory in fs._directories.values():
            directory.sync()
        return fs

    def after_kill(self, *, evicted: bool = False) -> SimulatedFileSystem:
        """The machine after ``kill -9`` of the process: nothing is lost, nothing is synced.

        Args:
            evicted: the page cache has let go of what failed syncs had lost, so that it is read
                from the medium.
        """
        twin = SimulatedFileSystem(seed=self._random.getrandbits(32))
        twin.clock.wall_ns = self.clock.wall_ns
        twin._numbers = itertools.count(next(self._numbers))
        files: dict[int, SimulatedFile] = {}
        directories = {id(d): SimulatedDirectory() for d in self._directories.values()}

        def copy(node: SimulatedFile | SimulatedDirectory) -> SimulatedFile | SimulatedDirectory:
            if isinstance(node, SimulatedDirectory):
                return directories[id(node)]
            if id(node) not in files:
                files[id(node)] = node.copy(evicted=evicted)
            return files[id(node)]

        for directory in self._directories.values():
            made = directories[id(directory)]
            made.entries = {name: copy(child) for name, child in directory.entries.items()}
            made.base = {name: copy(child) for name, child in directory.base.items()}
            made.pending = [
                tuple((name, None if child is None else copy(child)) for name, child in changes)
                for changes in directory.pending
            ]
        twin._directories = {p: directories[id(d)] for p, d in self._directories.items()}
        return twin

    def kill(self) -> None:
        """No handle of this machine works from now on."""
        self._dead = True

    # -- crash states ----------------------------------------------------------------------------

    def crash_states(self, chooser: Random | None = None) -> Iterator[Disk]:
        """States that a power failure now may leave; a sample where there are very many.

        Args:
            chooser: picks the sample; by default always the same one.
        Cost: some tens of states for what one commit leaves uncertain, some hundreds in the middle
            of a flush. An open of a small store takes about 0.2 ms.
        """
        chooser = Random(0) if chooser is None else chooser
        uncertain = [d for d in self._directories.values() if d.pending]
        variants = {
            id(node): node.variants()
            for directory in self._directories.values()
            for names in (directory.entries, directory.base)
            for node in names.values()
            if isinstance(node, SimulatedFile) and node.pending
        }
        for picked in _combinations([d.variants() for d in uncertain], chooser):
            names_of = {id(d): names for d, names in zip(uncertain, picked, strict=True)}
            files: dict[str, SimulatedFile] = {}
            directories: set[str] = set()
            self._walk("", self._directories["/"], names_of, files, directories)
            kept = frozenset(directories)
            open_paths = [path for path, file in files.items() if file.pending]
            settled = {path: file.base for path, file in files.items() if not file.pending}
            options = []
            for path in open_paths:
                file = files[path]
                if id(file) not in variants:  # known only by a name that came and went
                    variants[id(file)] = file.variants()
                options.append(variants[id(file)])
            for contents in _combinations(options, chooser):
                yield Disk({**settled, **dict(zip(open_paths, contents, strict=True))}, kept)

    def _walk(
        self,
        path: str,
        directory: SimulatedDirectory,
        names_of: dict[int, Names],
        files: dict[str, SimulatedFile],
        directories: set[str],
    ) -> None:
        for name, node in names_of.get(id(directory), directory.entries).items():
            inside = f"{path}/{name}"
            if isinstance(node, SimulatedFile):
                files[inside] = node
            else:
                directories.add(inside)
                self._walk(inside, node, names_of, files, directories)

    def visible(self) -> Disk:
        """What a process sees now."""
        files: dict[str, SimulatedFile] = {}
        directories: set[str] = set()
        self._walk("", self._directories["/"], {}, files, directories)
        return Disk({p: bytes(f.data) for p, f in files.items()}, frozenset(directories))

    # -- the tree --------------------------------------------------------------------------------

    def _done(self, operation: str, path: str) -> None:
        self.operation_count += 1
        if self.on_operation is not None:
            self.on_operation(operation, path)

    def _alive(self) -> None:
        if self._dead:
            raise AssertionError("a killed process called the operating system")

    def _directory(self, path: str) -> SimulatedDirectory:
        self._alive()
        found = self._directories.get(path)
        if found is None:
            head, _, name = path.rpartition("/")
            if isinstance(self._directory(head or "/").entries.get(name), SimulatedFile):
                raise NotADirectoryError(20, "Not a directory", path)
            raise FileNotFoundError(2, "No such file or directory", path)
        return found

    def _parent(self, path: str) -> tuple[SimulatedDirectory, str]:
        head, _, name = path.rpartition("/")
        return self._directory(head or "/"), name

    def _file(self, path: str) -> SimulatedFile:
        directory, name = self._parent(path)
        node = directory.entries.get(name)
        if node is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        if isinstance(node, SimulatedDirectory):
            raise IsADirectoryError(21, "Is a directory", path)
        return node

    def _make(self, path: str) -> bool:
        made = False
        inside = ""
        parent = self._directories["/"]
        for name in path.split("/")[1:]:
            inside = f"{inside}/{name}"
            if isinstance(parent.entries.get(name), SimulatedFile):
                raise NotADirectoryError(20, "Not a directory", path)
            if inside not in self._directories:
                self._directories[inside] = child = SimulatedDirectory()
                parent.apply((name, child))
                made = True
            parent = self._directories[inside]
        return made

    # -- failures --------------------------------------------------------------------------------

    def lose_unsynced(self, path: str) -> None:
        """A sync of a file fails here: what it should have covered is lost, all or in part, though
        it can still be read. A failed sync of a directory leaves its changes as uncertain as they
        were: journaling file systems stop altogether there."""
        self._file(path).lose_unsynced(self._random)

    # -- the FileSystem protocol -----------------------------------------------------------------

    def open(self, path: str, *, writable: bool = False) -> SimulatedHandle:
        return SimulatedHandle(self, self._file(path), path, writable)

    def create(self, path: str) -> SimulatedHandle:
        directory, name = self._parent(path)
        if name in directory.entries:
            raise FileExistsError(17, "File exists", path)
        file = SimulatedFile(next(self._numbers))
        directory.apply((name, file))
        self._done("create", path)
        return SimulatedHandle(self, file, path, True)

    def read_file(self, path: str, max_bytes: int) -> bytes:
        return bytes(self._file(path).data[:max_bytes])

    def list(self, directory: str) -> list[str]:
        return sorted(self._directory(directory).entries)

    def is_directory(self, path: str) -> bool:
        self._alive()
        return path in self._directories

    def make_directory(self, path: str) -> None:
        self._alive()
        if self._make(path):
            self._done("make_directory", path)

    def rename(self, source: str, target: str) -> None:
        file = self._file(source)
        directory, name = self._parent(source)
        other, new_name = self._parent(target)
        if other is not directory:
            raise OSError(18, "Renames across directories are not simulated", target)
        replaced = directory.entries.get(new_name)
        if isinstance(replaced, SimulatedFile):
            replaced.links -= 1
        directory.apply((name, None), (new_name, file))
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

    def lock(self, path: str) -> SimulatedLock:
        if path in self._locks:
            raise LockHeldError({"pid": 1, "host": "simulated"})
        directory, name = self._parent(path)
        if name not in directory.entries:
            directory.apply((name, SimulatedFile(next(self._numbers))))
            self._done("create", path)
        self._locks.add(path)
        return SimulatedLock(self, self._file(path), path)

    def holder(self, path: str) -> dict[str, Any] | None:
        return {} if path in self._locks else None

    def process_id(self) -> int:
        return 1

    def free_bytes(self, path: str) -> int | None:
        return self.free

    def join(self, *parts: str) -> str:
        return "/".join(parts) if parts[0] != "/" else posixpath.join(*parts)

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


def _combinations(options: list[list[T]], chooser: Random) -> Iterator[tuple[T, ...]]:
    total = 1
    for choices in options:
        total *= len(choices)
    if total <= _MAX_COMBINATIONS or len(options) == 1:
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


class SimulatedLock:
    """A lock that the simulated process holds."""

    def __init__(self, fs: SimulatedFileSystem, file: SimulatedFile, path: str) -> None:
        self._fs = fs
        self._node = file
        self._path = path

    def tell(self, facts: dict[str, Any]) -> None:
        """Nobody is there to read it."""

    def valid(self) -> bool:
        try:
            return self._fs._file(self._path) is self._node
        except OSError:
            return False

    def release(self) -> None:
        self._fs._locks.discard(self._path)


class SimulatedHandle:
    """An open file; see ``vfs.File``."""

    def __init__(
        self, fs: SimulatedFileSystem, file: SimulatedFile, path: str, writable: bool
    ) -> None:
        self._fs = fs
        self._node = file
        self._writable = writable
        self._closed = False
        self.path = path

    def _open(self) -> SimulatedFile:
        if self._fs._dead:
            self._fs._alive()
        if self._closed:
            raise OSError(9, "Bad file descriptor", self.path)
        return self._node

    def _open_to_write(self) -> SimulatedFile:
        file = self._open()
        if not self._writable:
            raise OSError(9, "Bad file descriptor", self.path)
        return file

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        return bytes(self._open().data[offset_bytes : offset_bytes + size_bytes])

    def write(self, data: bytes, offset_bytes: int) -> None:
        self._open_to_write().apply(offset_bytes, bytes(data))
        self._fs._done("write", self.path)

    def window(self, offset_bytes: int, size_bytes: int) -> Window | None:
        return WritingWindow(self, offset_bytes)

    def size(self) -> int:
        return len(self._open().data)

    def truncate(self, size_bytes: int) -> None:
        self._open_to_write().apply(size_bytes, TRUNCATE)
        self._fs._done("truncate", self.path)

    def sync_data(self) -> None:
        self._open().sync()
        self._fs._done("sync_data", self.path)

    def sync(self) -> None:
        self._open().sync()
        self._fs._done("sync", self.path)

    def lose_unsynced(self) -> None:
        """See ``SimulatedFileSystem.lose_unsynced``; also for a file without a name."""
        self._open().lose_unsynced(self._fs._random)

    def link_count(self) -> int:
        return self._open().links

    def close(self) -> None:
        self._closed = True
