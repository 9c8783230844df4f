"""All disagreements of a store: listed, or ended."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final, cast

from walkv.engine.store import ExclusiveStore, Store
from walkv.namespaces import registry
from walkv.namespaces.keyvalue import KeyValue, Reader, Writer
from walkv.namespaces.table import NAME
from walkv.ops.indexes import checkpoints, messages
from walkv.ops.indexes.mends import Mend
from walkv.ops.indexes.tables import Table

_AT_ONCE: Final = 256


def verify_indexes(store: Store) -> list[str]:
    """What is wrong between records and what is kept beside them, a line each.

    Args:
        store: may be read-only.
    Raises:
        CodecError, FormatError: the registry cannot be read, or is of a newer version.
    Cost: reads all records, and looks up each index entry.
    """
    with key_value(store).view() as view:
        return [mend.line for mend in _mends(view)]


def rebuild_indexes(store: Store) -> list[str]:
    """End every disagreement that can be ended; records are what counts.

    For a store that nobody else writes to meanwhile. May be interrupted, and done again.

    Returns:
        What was wrong and is right now, a line each.
    Raises:
        CodecError, FormatError: the registry cannot be read, or is of a newer version.
    Cost: that of ``verify_indexes``, and one commit for every 256 disagreements.
    """
    kv = key_value(store)
    with kv.view() as view:
        return end(kv, _mends(view))


def end(kv: KeyValue, mends: Iterator[Mend]) -> list[str]:
    """End those disagreements that can be ended; returns a line each."""
    lines = []
    possible = (mend for mend in mends if mend.key)
    while some := list(islice(possible, _AT_ONCE)):
        _, ticket = kv.transact(lambda tx, some=some: _write(tx, some), None)  # type: ignore[misc]
        if ticket is not None:
            ticket.wait()
        lines += [mend.line for mend in some]
    return lines


def key_value(store: Store) -> KeyValue:
    """A store as namespaces see it."""
    return cast(KeyValue, ExclusiveStore(store.engine))


def _mends(reader: Reader) -> Iterator[Mend]:
    known = registry.read(reader)
    for name in names(reader):
        if name not in known:
            yield Mend(
                f"{name}: it has entries, and the store's registry does not know it, so what its "
                "records are is lost; if you have the code that declares it as it was, call "
                "walkv.ops.rebuild_registry(store, [declaration]), or else delete it"
            )
    for name, entry in sorted(known.items()):
        table = Table(name, entry)
        yield from table.mends(reader)
        if name == messages.NAMESPACE:
            yield from messages.mends(table, reader)
        if name in checkpoints.NAMESPACES:
            yield from checkpoints.mends(table, reader)


def names(reader: Reader) -> Iterator[str]:
    """The namespaces that have entries. Cost: a look-up each."""
    start = b"\0\1"
    while key := next(reader.scan(start=start, stop=b"\1", limit=1, keys_only=True), None):
        name = key[1:].partition(b"\0")[0]
        start = b"\0" + name + b"\1"
        if NAME.fullmatch(name.decode("ascii", "replace")):
            yield name.decode()


def _write(tx: Writer, mends: list[Mend]) -> None:
    for mend in mends:
        if mend.value is None:
            tx.delete(mend.key)
        elif mend.expiry_ms:
            tx.put_until(mend.key, mend.value, mend.expiry_ms)
        else:
            tx.put(mend.key, mend.value)
