"""What was written, as a person or a program reads it: keys by their namespaces, secrets masked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, cast

from rich.text import Text

from walkv import Change, CodecError, Delete, DeleteRange, Put, Store
from walkv.cli import output, values
from walkv.cli.text import escaped, for_json
from walkv.namespaces import registry
from walkv.namespaces.keyvalue import Reader
from walkv.namespaces.registry import Entry
from walkv.ops.naming import Name, group_of, kind_of, name_of, record_of

INTERNAL: Final = frozenset(("index", "version", "other", "registry"))
"""Kinds of entries that follow from a write of a record, and say nothing more to a person."""

_LONGEST_PREVIEW: Final = 200


class Knowledge:
    """What a store's registry says of its namespaces, read again when it is written.

    Args:
        secrets: show them, too.
    """

    def __init__(self, store: Store, *, secrets: bool = False) -> None:
        self._store = store
        self._secrets = secrets
        self.known: dict[str, Entry] = registry.read(cast(Reader, store))

    def learn(self, change: Change) -> None:
        """Take in what a commit has registered."""
        if any(isinstance(each, Put) and each.key == registry.KEY for each in change.operations):
            self._store.refresh()
            self.known = registry.read(cast(Reader, self._store))

    def name(self, key: bytes) -> Name:
        """What a key stands for."""
        return name_of(key, self.known)

    def record(self, name: Name, value: bytes) -> dict[str, Any] | None:
        """The fields of a record, or of an old version of it; None if it is none, or unreadable."""
        entry = self.known.get(name.namespace)
        if entry is None or name.kind not in ("record", "version"):
            return None
        try:
            return record_of(value, name.namespace, entry, secrets=self._secrets)
        except CodecError:
            return None

    def preview(self, name: Name, value: bytes) -> str:
        """A value on one line: the fields of a record that are not in its key, or a plain value."""
        if name.kind == "key":
            cut = escaped(value[:_LONGEST_PREVIEW])
            return cut if len(value) <= _LONGEST_PREVIEW else f"{cut}..."
        record = self.record(name, value)
        if record is None:
            return ""
        key = self.known[name.namespace].key
        return values.cell({field: each for field, each in record.items() if field not in key})


def key_text(name: Name, key: bytes) -> str:
    """A key for a person, by its namespace if it has one."""
    if name.kind == "key":
        return escaped(key)
    if name.kind == "registry":
        return "registry of the namespaces"
    fields = " ".join(map(_field_text, name.fields))
    if name.kind == "record":
        return f"{name.namespace} {fields}"
    if name.kind == "index":
        return f"{name.namespace} index {name.index_fields}: {fields}"
    return f"{name.namespace} {'old version' if name.kind == 'version' else 'bookkeeping'} {fields}"


def _field_text(value: Any) -> str:
    if isinstance(value, str):
        shown = values.cell(value)
        return shown if shown and " " not in shown else json.dumps(value, ensure_ascii=False)
    return values.cell(value).replace(",", "") if isinstance(value, int) else values.cell(value)


def range_text(deleted: DeleteRange) -> str:
    """A deleted range for a person."""
    group = group_of(deleted.start)
    kind, namespace = kind_of(group)
    if namespace:
        what = "records" if kind == "record" else "index entries" if kind == "index" else "entries"
        return f"{namespace}: {what} in a range"
    stop = "the end" if deleted.stop is None else escaped(deleted.stop)
    return f"{escaped(deleted.start) or 'the beginning'} up to {stop}"


class Line(NamedTuple):
    """One operation for a person."""

    verb: str
    what: str
    size: str
    more: str


def lines(change: Change, knowledge: Knowledge, *, everything: bool, full: bool) -> Iterator[Line]:
    """The operations of a commit for a person; what follows from others is only counted.

    Args:
        everything: also what follows from others.
        full: with a preview of values.
    """
    hidden = 0
    for operation in change.operations:
        if isinstance(operation, DeleteRange):
            kind, _ = kind_of(group_of(operation.start))
            if kind in INTERNAL and not everything:
                hidden += 1
            else:
                yield Line("delete range", range_text(operation), "", "")
            continue
        name = knowledge.name(operation.key)
        if name.kind in INTERNAL and not everything:
            hidden += 1
        elif isinstance(operation, Delete):
            yield Line("delete", key_text(name, operation.key), "", "")
        else:
            more = knowledge.preview(name, operation.value) if full else ""
            if operation.expires_at is not None:
                more = f"until {values.cell(operation.expires_at)}  {more}".rstrip()
            size = output.size(len(operation.value))
            yield Line("put", key_text(name, operation.key), size, more)
    if hidden:
        noun = "entry" if hidden == 1 else "entries"
        yield Line("", f"and {hidden:,} {noun} of indexes and bookkeeping", "", "")


def styled(line: Line) -> Text:
    """A line for a terminal or a file."""
    style = {"put": "green", "delete": "red", "delete range": "red"}.get(line.verb, "dim")
    text = Text.assemble("  ", (f"{line.verb:<13}" if line.verb else "", style))
    text.append(line.what, "dim" if not line.verb else "")
    if line.size:
        text.append(f"  {line.size}", "dim")
    if line.more:
        text.append(f"  {line.more}")
    return text


def fields_of(change: Change, knowledge: Knowledge, *, full: bool) -> dict[str, Any]:
    """A commit for a program; with ``full``, with values."""
    return {
        "first_sequence": change.first_sequence,
        "last_sequence": change.last_sequence,
        "time": change.time.isoformat(),
        "size_bytes": change.size_bytes,
        "operations": [_operation(each, knowledge, full) for each in change.operations],
    }


def _operation(
    operation: Put | Delete | DeleteRange, knowledge: Knowledge, full: bool
) -> dict[str, Any]:
    if isinstance(operation, DeleteRange):
        stop = None if operation.stop is None else for_json(operation.stop)
        return {"operation": "delete range", "start": for_json(operation.start), "stop": stop}
    name = knowledge.name(operation.key)
    fields: dict[str, Any] = {
        "operation": "delete" if isinstance(operation, Delete) else "put",
        "key": for_json(operation.key),
    } | name_fields(name)
    if isinstance(operation, Put):
        expires_at = operation.expires_at
        fields["value_bytes"] = len(operation.value)
        fields["expires_at"] = None if expires_at is None else expires_at.isoformat()
        if full:
            fields |= value_fields(name, operation.value, knowledge)
    return fields


def name_fields(name: Name) -> dict[str, Any]:
    """What a key stands for, for a program."""
    if name.kind == "key":
        return {"kind": "key"}
    return {
        "kind": name.kind,
        "namespace": name.namespace,
        "fields": values.plain(name.fields),
        "index_fields": name.index_fields,
    }


def value_fields(name: Name, value: bytes, knowledge: Knowledge) -> dict[str, Any]:
    """A value for a program: of plain keys the bytes, of records the fields; else nothing."""
    if name.kind == "key":
        return {"value": for_json(value)}
    if name.kind in ("record", "version"):
        record = knowledge.record(name, value)
        return {"record": None if record is None else values.plain(record)}
    return {}
