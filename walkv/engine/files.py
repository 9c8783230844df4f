"""The files of a store's directory: their names, whether there is a store, and how one begins.

Invariants:
    1. A creation that is interrupted leaves nothing that looks like a store: the manifest comes
       last, and what is there before it is taken for an interrupted creation.
    2. A directory that holds anything of somebody else is never made a store.
"""

from __future__ import annotations

from collections.abc import Callable

from walkv.engine import keep, manifest, segment
from walkv.engine.keyring import NO_KEYS, Keyring
from walkv.engine.manifest import Manifest
from walkv.engine.segment import Tail
from walkv.engine.snapshot import layout as snapshot
from walkv.engine.vfs import FileSystem, SyncError, ensure_synced
from walkv.errors import CorruptionError, FormatError

LOCK_NAME = "LOCK"
LOG_DIRECTORY = "log"
SNAPSHOT_DIRECTORY = "snapshots"
QUARANTINE_DIRECTORY = "quarantine"
_SUFFIXES = (segment.SUFFIX, keep.SUFFIX, snapshot.SUFFIX)
OWN_NAMES = frozenset(
    (
        LOCK_NAME,
        LOG_DIRECTORY,
        SNAPSHOT_DIRECTORY,
        QUARANTINE_DIRECTORY,
        manifest.NAME,
        manifest.TEMPORARY_NAME,
    )
)


def create(
    fs: FileSystem,
    directory: str,
    make_segment: Callable[[str, bytes], Tail],
    keyring: Keyring = NO_KEYS,
) -> Tail:
    """Make a new, empty store; a crash at any point leaves nothing that looks like one.

    Args:
        make_segment: creates the first segment, durably, in a directory for a store id.
        keyring: the opener's; where it was given a key, the store is encrypted.
    """
    for name in (LOG_DIRECTORY, SNAPSHOT_DIRECTORY, QUARANTINE_DIRECTORY):
        fs.make_directory(fs.join(directory, name))
    ensure_synced(lambda: fs.sync_directory(directory))
    _sync_ancestors(fs, directory)
    store_id = fs.random_bytes(segment.STORE_ID_BYTES)
    keyring.begin(store_id)
    tail = make_segment(fs.join(directory, LOG_DIRECTORY), store_id)
    first = (tail.header.first_sequence,)
    manifest.write(
        fs,
        directory,
        Manifest(store_id, 1, 1, 0, fs.wall_time_ns(), first, (), keyring.ring),
        keyring,
    )
    return tail


def key_numbers(fs: FileSystem, directory: str) -> set[int] | None:
    """The data keys that files of the log and snapshots are under, also those not in use any more.

    None if a damaged header does not tell.
    """
    found = set()
    for name in (LOG_DIRECTORY, SNAPSHOT_DIRECTORY):
        inside = fs.join(directory, name)
        for entry in fs.list(inside):
            if not entry.endswith(_SUFFIXES):
                continue
            try:
                file = fs.open(fs.join(inside, entry))
            except FileNotFoundError:
                return None  # removed, or renamed to be kept: then it still needs its key
            header = file.read(0, segment.HEADER_BYTES)
            file.close()
            if len(header) < segment.HEADER_BYTES:
                continue  # being made, so under the newest
            number = segment.key_number_of(header)
            if number is None:
                return None
            found.add(number)
    return found


def _sync_ancestors(fs: FileSystem, directory: str) -> None:
    """Make the names on the way to a directory durable: they may have been made just now."""
    above, below = fs.parent(directory), directory
    nearest = True
    while above != below:
        try:
            fs.sync_directory(above)
        except PermissionError as error:
            # A directory we may not even read was not made by us.
            if nearest:
                raise SyncError(error) from error
        except OSError as error:
            raise SyncError(error) from error
        above, below, nearest = fs.parent(above), above, False


def is_new(fs: FileSystem, directory: str) -> bool:
    """Whether a directory may become a store: it is empty, or its creation was interrupted.

    Raises:
        FormatError: it holds something else.
        CorruptionError: it holds a store whose manifest is missing.
    """
    names = set(fs.list(directory))
    if manifest.NAME in names:
        return False
    foreign = sorted(names - OWN_NAMES)
    if foreign:
        raise FormatError(
            f"{directory}: this directory is not a walkv store and is not empty (it has "
            f"{foreign[0]!r}); choose another directory",
            path=directory,
            supported=manifest.VERSIONS,
        )
    settled = SNAPSHOT_DIRECTORY in names and fs.list(fs.join(directory, SNAPSHOT_DIRECTORY))
    logged = False
    if LOG_DIRECTORY in names:
        inside = fs.join(directory, LOG_DIRECTORY)
        for name in fs.list(inside):
            # The first segment of an interrupted creation has no frames yet.
            file = fs.open(fs.join(inside, name))
            logged = logged or file.size() > segment.HEADER_BYTES
            file.close()
    if settled or logged:
        if manifest.NAME in fs.list(directory):
            return False  # another process was making the store just now
        raise CorruptionError(
            "the manifest is missing, and there is data",
            path=fs.join(directory, manifest.NAME),
            expected="a manifest",
            found="no file",
        )
    return True


def not_found(directory: str) -> FileNotFoundError:
    return FileNotFoundError(
        2, "there is no walkv store here; open it with create=True to make one", directory
    )
