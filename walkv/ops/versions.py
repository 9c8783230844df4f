"""What a key was, as far as the log, the store and its namespace still know.

The log knows each write that was kept, with its time. The store knows the last one, however old.
A namespace that keeps history knows old versions of a record, but not when they were written.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal, NamedTuple

from walkv.engine.changes import Delete, DeleteRange, Put
from walkv.engine.store import Store
from walkv.ops.naming import version_prefix

Kind = Literal["put", "delete", "delete range", "version"]


class Version(NamedTuple):
    """A key at one time.

    Attributes:
        kind: what was done to it; ``version``: what its namespace has kept of it.
        sequence: of the write; of a ``version``, of the write that replaced it.
        time: of the write; None where the log does not reach back that far.
        value: None if it was deleted.
        expires_at: from when on it is absent; None for never, or where it is not known.
    """

    kind: Kind
    sequence: int
    time: datetime | None
    value: bytes | None
    expires_at: datetime | None = None


def history(store: Store, key: bytes, *, versioned: bool = False) -> list[Version]:
    """Everything that is known of a key, newest first.

    Args:
        versioned: it is the key of a record, of which a namespace may have kept old versions.
    Cost: reads the log that is there, and looks the key up.
    """
    found = list(_logged(store, key))
    value, sequence = store.get_versioned(key)
    if value is not None and sequence is not None:
        known = {version.sequence for version in found}
        if sequence not in known:
            found.append(Version("put", sequence, None, value))
    if versioned:
        # What is replaced by a write that the log has was, but for the first, written in the log.
        first = min((version.sequence for version in found), default=None)
        for version_key in store.scan(prefix=version_prefix(key), keys_only=True):
            old, replaced = store.get_versioned(version_key)
            if old is not None and replaced is not None and (first is None or replaced <= first):
                found.append(Version("version", replaced, None, old))
    return sorted(found, key=lambda version: version.sequence, reverse=True)


def _logged(store: Store, key: bytes) -> Iterator[Version]:
    for change in store.changes():
        for sequence, operation in enumerate(change.operations, change.first_sequence):
            if isinstance(operation, Put):
                if operation.key == key:
                    at, value = operation.expires_at, operation.value
                    yield Version("put", sequence, change.time, value, at)
            elif isinstance(operation, Delete):
                if operation.key == key:
                    yield Version("delete", sequence, change.time, None)
            elif _covers(operation, key):
                yield Version("delete range", sequence, change.time, None)


def _covers(deleted: DeleteRange, key: bytes) -> bool:
    return deleted.start <= key and (deleted.stop is None or key < deleted.stop)
