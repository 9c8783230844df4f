"""Where items go in a store: written if they are not there, and read again to be held against.

Invariants:
    1. What is in the store stays as it is, unless it is to be replaced: an item that is there and
       says the same is not written again, so whoever does it all twice has done it once.
    2. Records of walkv's own namespaces are written by these, with everything that follows a write
       there. Those of an application's are written as its class would, told by the registry.
    3. A commit holds whole items; whenever the process ends, each is there or is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, cast

from walkv.engine.core import Engine
from walkv.engine.follower import Follower
from walkv.engine.policies import WriteBack
from walkv.engine.store import ExclusiveStore
from walkv.errors import CodecError, FormatError, LimitError
from walkv.namespaces import codec, registry
from walkv.namespaces.access import Access
from walkv.namespaces.base import Namespace
from walkv.namespaces.checkpoints import Checkpoint, Checkpoints
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.keyvalue import KeyValue, Writer
from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import Schema
from walkv.ops.moving import items
from walkv.ops.moving.collecting import row_of
from walkv.ops.moving.declared import DeclaredTable, register
from walkv.ops.moving.items import Item, Problems, place

WRITTEN: Final = "written"
PRESENT: Final = "present"
DIFFERING: Final = "differing"
EXPIRED: Final = "expired"

_LATER: Final = WriteBack()
"""Nobody waits for single commits; what was written is synced at the end."""

_REFUSED: Final = (CodecError, LimitError, TypeError, ValueError, OverflowError)


class Target(Protocol):
    """What a namespace does with an item."""

    def encoded(self, item: Item) -> bytes:
        """A record as it is stored."""

    def put(self, tx: Writer, key: bytes, item: Item, old: bytes | None) -> None:
        """Write one that is not there, or is to be replaced."""


class Shelves:
    """A store that items are written to.

    Args:
        namespaces: what the source says of its namespaces.
        raw: the source has entries, those of its namespaces too.
        replace: what is there and is another one is written over.
    Raises:
        FormatError: a namespace of the store has another key, or does not fit otherwise.
    """

    def __init__(
        self,
        engine: Engine | Follower,
        namespaces: Mapping[str, Entry],
        *,
        raw: bool,
        replace: bool,
    ) -> None:
        self.kv = cast(KeyValue, ExclusiveStore(engine))
        self._engine = engine
        self._replace = replace
        self._source = namespaces
        self._targets: dict[str, Target] = {}
        known = registry.read(self.kv)
        self._known = known
        if raw:
            self._check_same(known)
            return
        own = {name: entry for name, entry in namespaces.items() if name not in CLASSES}
        if own:
            register(self.kv, own)
        access = Access(self.kv, self)
        for name, entry in namespaces.items():
            if name in CLASSES:
                namespace = CLASSES[name](access)
                _attach(self.kv, namespace)
                if name == items.CHECKPOINTS:
                    self._checkpoints = cast(Checkpoints, namespace)
                else:
                    self._targets[name] = _Known(namespace, entry)
        self._known = registry.read(self.kv)
        for name, entry in own.items():
            self._targets[name] = DeclaredTable(name, self._known[name], entry)

    # -- entries as they are -----------------------------------------------------------------------

    def _check_same(self, known: Mapping[str, Entry]) -> None:
        for name, entry in self._source.items():
            if name in known and known[name] != entry:
                raise FormatError(
                    f"namespace {name} is in this store already, and registered otherwise, so its "
                    "entries cannot be taken as they are; import into a new store, or export "
                    "records",
                    path=self.kv.path,
                )

    def conflict(self, item: Item) -> bool:
        """Whether an entry of a namespace is there, and is another one."""
        key = item.fields["key"]
        if not key.startswith(b"\0"):
            return False
        stored = self.kv.get(key)
        return stored is not None and stored != item.fields["value"]

    def take_registry(self) -> None:
        """Register the namespaces whose entries are written as they are."""
        missing = {name: e for name, e in self._source.items() if name not in self._known}
        if not missing:
            return

        def run(tx: Writer) -> None:
            registry.write(tx, {**registry.read(tx), **missing})

        self.kv.transact(run, _LATER)
        self._known = registry.read(self.kv)

    # -- writing -----------------------------------------------------------------------------------

    def write(self, batch: Iterable[Item], problems: Problems) -> list[tuple[Item, str]]:
        """Write items, in one commit but for checkpoints; returns what became of each.

        Args:
            problems: gets a line for each that cannot be written.
        """
        done: list[tuple[Item, str]] = []
        waiting: list[Item] = []
        for item in batch:
            if item.what == items.CHECKPOINT:
                self._write_checkpoint(item, done, problems)
            else:
                waiting.append(item)
        if waiting:
            try:
                outcomes, _ = self.kv.transact(lambda tx: self._write_all(tx, waiting), _LATER)
                done += zip(waiting, outcomes, strict=True)
            except _REFUSED:
                for item in waiting:  # one of them; the others are to be written all the same
                    self._write_alone(item, done, problems)
        return done

    def _write_alone(self, item: Item, done: list[tuple[Item, str]], problems: Problems) -> None:
        try:
            outcomes, _ = self.kv.transact(lambda tx: self._write_all(tx, [item]), _LATER)
            done.append((item, outcomes[0]))
        except _REFUSED as error:
            problems.append(f"{named(item)}: {error}")

    def _write_all(self, tx: Writer, batch: list[Item]) -> list[str]:
        now_ms = self.kv.wall_time_ns() // 1_000_000
        return [self._write(tx, item, now_ms) for item in batch]

    def _write(self, tx: Writer, item: Item, now_ms: int) -> str:
        if item.expiry_ms and item.expiry_ms <= now_ms:
            return EXPIRED
        key = self._place(item)
        old = tx.get(key)
        if old is not None:
            if self._says(item, old):
                return PRESENT
            # A head goes on; nothing else is touched.
            if not self._replace and item.what != items.HEAD:
                return DIFFERING
        if item.what == items.RECORD:
            self._targets[item.namespace].put(tx, key, item, old)
        else:
            self._put(tx, key, item, old)
        return WRITTEN

    def _put(self, tx: Writer, key: bytes, item: Item, old: bytes | None) -> None:
        fields = item.fields
        if item.what == items.ENTRY:
            if item.expiry_ms:
                tx.put_until(key, fields["value"], item.expiry_ms)
            else:
                tx.put(key, fields["value"])
        elif item.what == items.HEAD:
            tx.put(key, _joined_head(fields, old))
        elif item.what == items.WRITE:
            tx.put(key, codec.encode([fields[name] for name in ("channel", "value", "task_path")]))
        else:
            self._put_old(tx, key, item)

    def _put_old(self, tx: Writer, key: bytes, item: Item) -> None:
        data = self._targets[item.namespace].encoded(item)
        if item.expiry_ms:
            tx.put_until(key, data, item.expiry_ms)
        else:
            tx.put(key, data)

    def _write_checkpoint(
        self, item: Item, done: list[tuple[Item, str]], problems: Problems
    ) -> None:
        fields = item.fields
        try:
            stored = self._stored_checkpoint(item)
            same = stored is not None and codec.encode(stored) == codec.encode(fields)
            if same or (stored is not None and not self._replace):
                done.append((item, PRESENT if same else DIFFERING))
                return
            state = codec.encode(fields["data"])
            self._checkpoints.put_state(
                Checkpoint(
                    fields["thread_id"],
                    fields["namespace"],
                    fields["checkpoint_id"],
                    fields["parent_id"],
                    None,
                    fields["metadata"],
                    fields["created_at"],
                    fields["run_id"],
                    len(state),
                ),
                state,
                sync=_LATER,
            )
            done.append((item, WRITTEN))
        except _REFUSED as error:
            problems.append(f"{named(item)}: {error}")

    def _stored_checkpoint(self, item: Item) -> dict[str, Any] | None:
        fields = item.fields
        place = fields["thread_id"], fields["checkpoint_id"]
        found = self._checkpoints.get(*place, namespace=fields["namespace"])
        if found is None:
            return None
        # Where it is in its thread depends on what was there before, and is not what it says.
        made = {name: getattr(found, name) for name in fields if name != "number"}
        return {name: made.get(name, fields[name]) for name in fields}

    # -- reading again -----------------------------------------------------------------------------

    def stored(self, item: Item) -> Item | None:
        """What the store has in the place of an item, in its form; None if it has nothing."""
        if item.what == items.CHECKPOINT:
            fields = self._stored_checkpoint(item)
            return None if fields is None else item._replace(fields=fields)
        if item.what == items.ENTRY:
            entry = self._engine.entry(item.fields["key"])
            if entry is None:
                return None
            return self._read(item, cast(bytes, entry[1]))._replace(expiry_ms=entry[2])
        data = self.kv.get(self._place(item))
        return None if data is None else self._read(item, data)

    def has_expired(self, item: Item) -> bool:
        """Whether an item is past its time."""
        return 0 < item.expiry_ms <= self.kv.wall_time_ns() // 1_000_000

    def _place(self, item: Item) -> bytes:
        entry = self._source.get(item.namespace)
        return place(item, () if entry is None else entry.key)

    def _says(self, item: Item, data: bytes) -> bool:
        read = self._read(item, data)
        if item.what == items.ENTRY:
            # None: it was written just now, by the function that asks.
            entry = self._engine.current_entry(item.fields["key"])
            same_expiry = entry is None or entry[2] == item.expiry_ms
            return read.fields == item.fields and same_expiry
        return items.digest(read) == items.digest(item)

    def _read(self, item: Item, data: bytes) -> Item:
        if item.what == items.ENTRY:
            return item._replace(fields={**item.fields, "value": data})
        if item.what == items.HEAD:
            first, following, count = codec.decode(data)
            if following >= item.fields["next"] and count >= item.fields["count"]:
                return item  # it has gone on, or was joined with another one
            found = {"first": first, "next": following, "count": count}
            return item._replace(fields={**item.fields, **found})
        if item.what == items.WRITE:
            channel, value, task_path = codec.decode(data)
            found = {"channel": channel, "value": value, "task_path": task_path}
            return item._replace(fields={**item.fields, **found})
        _, stored = row_of(item.namespace, self._known[item.namespace], b"", data)
        return item._replace(fields={name: stored[name] for name in item.fields if name in stored})


def named(item: Item) -> str:
    """An item, for a message."""
    names = [repr(item.fields[name]) for name in list(item.fields)[:2]]
    return (
        f"{item.what} of {item.namespace} ({', '.join(names)[:120]})"
        if item.namespace
        else (f"entry ({names[0][:120]})")
    )


def _joined_head(fields: Mapping[str, Any], old: bytes | None) -> bytes:
    """A head that gives out no number again which was given out on either side."""
    first, following, count = (1, 1, 0) if old is None else codec.decode(old)
    following = max(following, fields["next"])
    return codec.encode([first if count else following, following, count])


def _attach(kv: KeyValue, namespace: Namespace[Any]) -> None:
    """Register a namespace of walkv's own, unless the store knows it."""
    kv.shared.setdefault(namespace.name, namespace.agreement)
    if namespace.attach(registry.read(kv)):
        return

    def run(tx: Writer) -> None:
        entries = registry.read(tx)
        namespace.register(tx, entries)
        registry.write(tx, entries)

    kv.transact(run, _LATER)
    namespace.attach(registry.read(kv))


class _Known:
    """A namespace of walkv's own.

    Args:
        source: what the source says of it: its records may be of older walkvs.
    """

    def __init__(self, namespace: Namespace[Any], source: Entry) -> None:
        self._namespace = namespace
        declared = namespace.declaration
        self._schema: Schema[Any] = Schema(
            declared.name, declared.record, declared.version, declared.migrations
        )
        self._schema.use_layouts(source.layouts)

    def _values(self, item: Item) -> list[Any]:
        read = self._schema.read([item.layout, *item.fields.values()])
        if read.unknown:
            raise CodecError(
                f"{item.namespace}: this walkv knows no {', '.join(read.unknown)}; use a newer one",
                namespace=item.namespace,
            )
        return self._schema.checked(list(read.values))

    def encoded(self, item: Item) -> bytes:
        """A record as it is stored."""
        return self._namespace.table.schema.encode(self._values(item), item.expiry_ms)

    def put(self, tx: Writer, key: bytes, item: Item, old: bytes | None) -> None:
        """Write a record, and all that follows."""
        values, table = self._values(item), self._namespace.table
        packed = key[len(table.records) :]
        if item.expiry_ms:
            # In seconds since 1970, as the exact time counts.
            table.write(tx, packed, values, old, 0, item.expiry_ms / 1000)
        else:
            self._namespace.write_in(tx, packed, values, old, None)
