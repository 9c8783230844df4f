"""The only door to the operating system: files, directories, locks, clocks, randomness, forks.

Everything the engine does to the world goes through a ``FileSystem``. The real one is
``OsFileSystem``; a simulated one can lose unsynced bytes, fail any call and stop the clock.

Invariants:
    1. No other module of the engine imports ``os``, ``mmap`` or ``fcntl``, or calls ``open``.
       Pauses that only share the processor (``compaction``, retries) use ``time`` directly.
    2. ``File.write`` writes everything or raises. After it raised, nothing is known about the
       bytes in its range; bytes outside its range are untouched.
    3. After ``sync_data`` returned, all bytes written before the call are on the medium. After
       ``sync_directory`` returned, so are all creations, renames and unlinks in it.
    4. A file descriptor lives as long as its ``File``: readers of an unlinked file keep it.

    5. A ``Window`` is given only for bytes that were written before, where the file system keeps
       their space: what is put there needs none that could be missing.

Source: Pebble's ``vfs`` and LevelDB's ``Env``. Mapping space that was not written yet was rejected:
on a full disk that ends in SIGBUS, which kills the process, where ``pwrite`` gives a typed error.

    protocols   FileSystem, File, Window, Lock, and the errors of locks and syncs
    mounts      which file systems are networks, and which keep the space of a file
    locks       flock, and who holds it
    system      OsFileSystem
"""

from walkv.engine.vfs.protocols import (
    NO_WINDOW,
    WINDOW_ALIGNMENT_BYTES,
    File,
    FileSystem,
    Lock,
    LockHeldError,
    ReadableFile,
    SyncError,
    Window,
    ensure_synced,
)
from walkv.engine.vfs.system import OsFile, OsFileSystem, environment

__all__ = [
    "NO_WINDOW",
    "WINDOW_ALIGNMENT_BYTES",
    "File",
    "FileSystem",
    "Lock",
    "LockHeldError",
    "OsFile",
    "OsFileSystem",
    "ReadableFile",
    "SyncError",
    "Window",
    "ensure_synced",
    "environment",
]
