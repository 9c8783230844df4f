"""The documents of an export file: its header, its items, and what else it states.

    header     {"walkv_export": 1, "kind", "time", "sequence", "store", "selection", "counts",
               "left_out", "namespaces": {name: {"key", "layouts", "indexes", "next_index",
               "secrets", "history", "masked"}}}
    segment    {"segment": {"time", "sequence", "namespaces"}}: what follows is of another moment
    item       {"namespace": name, what: {field: value, ...}, "layout"?, "version"?, "expiry_ms"?}
    end        {"end": {"counts": {name: {"count", "xxh3_128"}}, "xxh3_128"}}

Invariant: what is read here is checked: names, types, and that an item has the fields it is to
have. Values of fields are anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import Layout
from walkv.namespaces.table import NAME
from walkv.ops.moving import framing, items
from walkv.ops.moving.framing import Document, FileReader
from walkv.ops.moving.items import Item

_MOST_EXPIRY_MS = (1 << 63) - 1


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        masked: fields that are masked where they say something, by namespace.
        item_count: about so many follow.
    """

    kind: str
    time: str
    sequence: int
    namespaces: dict[str, Entry]
    masked: dict[str, tuple[str, ...]]
    item_count: int


def entry_as_dict(entry: Entry, *, masked: bool) -> dict[str, Any]:
    """What is registered of a namespace, for a file."""
    return {
        "key": list(entry.key),
        "layouts": [[version, list(names)] for version, names in entry.layouts],
        "indexes": entry.indexes,
        "next_index": entry.next_index,
        "secrets": list(entry.secrets),
        "history": entry.history,
        "masked": list(entry.secrets) if masked else [],
    }


def item_as_dict(item: Item, known: Mapping[str, Entry]) -> dict[str, Any]:
    """An item for a file; what is usual is left out."""
    made: dict[str, Any] = {}
    if item.namespace:
        made["namespace"] = item.namespace
    made[item.what] = item.fields
    entry = known.get(item.namespace)
    is_record = item.what in (items.RECORD, items.OLD)
    if is_record and entry is not None and item.layout != len(entry.layouts) - 1:
        made["layout"] = item.layout
    if item.version:
        made["version"] = item.version
    if item.expiry_ms:
        made["expiry_ms"] = item.expiry_ms
    return made


def _fail(reader: FileReader, offset: int, why: str) -> NoReturn:
    raise reader.wrong(offset, why)


def read_header(reader: FileReader, value: Any) -> Header:
    """The header of a file.

    Raises:
        ImportSourceError: it is none, or of a newer version.
    """
    version = value.get(framing.MARK) if isinstance(value, dict) else None
    if type(version) is not int:
        _fail(reader, 0, "it does not begin as an export of walkv does")
    if version != framing.VERSION:
        why = f"an export of version {version}, and this walkv reads version {framing.VERSION}"
        error = reader.wrong(0, f"{why}; use a newer walkv")
        error.found_version, error.supported = version, (framing.VERSION,)
        raise error
    kind, counts = value.get("kind"), value.get("counts")
    if kind not in ("records", "entries") or not _are(counts, str, int):
        _fail(reader, 0, "its header does not say what is in it")
    namespaces, masked = _namespaces(reader, 0, value.get("namespaces"))
    sequence, time = value.get("sequence"), value.get("time")
    if type(sequence) is not int or type(time) is not str:
        _fail(reader, 0, "its header does not say of which moment it is")
    return Header(kind, time, sequence, namespaces, masked, sum(counts.values()))


def read_segment(reader: FileReader, document: Document) -> tuple[int, dict[str, Entry]]:
    """The sequence of another moment, and what is registered then.

    Raises:
        ImportSourceError: there is none in this document.
    """
    found = document.value["segment"]
    if not isinstance(found, dict) or type(found.get("sequence")) is not int:
        _fail(reader, document.start, "what is stated of another moment cannot be read")
    return found["sequence"], _namespaces(reader, document.start, found.get("namespaces"))[0]


def _are(value: Any, key: type, kind: type) -> bool:
    return type(value) is dict and all(
        type(name) is key and type(each) is kind for name, each in value.items()
    )


def _texts(value: Any) -> list[str]:
    if type(value) is not list or not all(type(each) is str for each in value):
        raise TypeError("a list of names is something else")
    return value


def _namespaces(
    reader: FileReader, offset: int, value: Any
) -> tuple[dict[str, Entry], dict[str, tuple[str, ...]]]:
    made, masked = {}, {}
    try:
        for name, each in value.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"a namespace cannot be called {name!r}")
            layouts = []
            for version, names in each["layouts"]:
                if type(version) is not int or version < 1 or len(set(names)) != len(names):
                    raise ValueError(f"{name} has a layout that is none")
                layouts.append(Layout(version, tuple(_texts(names))))
            numbers = [*each["indexes"].values(), each["next_index"], each["history"]]
            if not _are(each["indexes"], str, int) or not all(type(n) is int for n in numbers):
                raise TypeError(f"the indexes of {name} are none")
            if not all(0 <= number <= 256 for number in numbers[:-1]) or numbers[-1] < 0:
                raise ValueError(f"the indexes of {name} are none")
            key = tuple(_texts(each["key"]))
            if not key or not layouts or not all(set(key) <= set(one.names) for one in layouts):
                raise ValueError(f"{name} has no key")
            made[name] = Entry(
                key,
                layouts,
                dict(each["indexes"]),
                each["next_index"],
                _texts(each["secrets"]),
                each["history"],
            )
            if hidden := _texts(each["masked"]):
                masked[name] = tuple(hidden)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise reader.wrong(
            offset, f"what is stated of the namespaces cannot be read: {str(error)[:200]}"
        ) from error
    return made, masked


def read_item(reader: FileReader, document: Document, known: Mapping[str, Entry]) -> Item:
    """The item of a document.

    Raises:
        ImportSourceError: there is none.
    """
    value = document.value
    what = items.KINDS & value.keys() if isinstance(value, dict) else set()
    if len(what) != 1:
        _fail(reader, document.start, "this is no item of an export")
    (kind,) = what
    namespace = value.get("namespace", "")
    fields = value[kind]
    if type(namespace) is not str:
        _fail(reader, document.start, f"a {kind} of a namespace that is no text")
    entry = known.get(namespace)
    if (kind == items.ENTRY) != (namespace == "") or (namespace and entry is None):
        _fail(reader, document.start, f"a {kind} of a namespace that the file does not state")
    newest = len(entry.layouts) - 1 if entry is not None else 0
    numbers = value.get("layout", newest), value.get("version", 0), value.get("expiry_ms", 0)
    if not all(type(number) is int and 0 <= number <= _MOST_EXPIRY_MS for number in numbers):
        _fail(reader, document.start, "a number of this item is none")
    if kind not in (items.RECORD, items.OLD):
        numbers = (0, *numbers[1:])
    item = Item(namespace, kind, fields, *numbers, len(document.data))
    wanted = items.known_fields(item, known)
    if wanted is None or type(fields) is not dict or tuple(fields) != wanted:
        _fail(reader, document.start, f"this {kind} has not the fields that it is to have")
    if kind == items.ENTRY and not all(type(each) is bytes for each in fields.values()):
        _fail(reader, document.start, "a key or a value is no bytes")
    counted = [*fields.values()][1:] if kind == items.HEAD else []
    if not all(type(each) is int and 0 <= each < 1 << 63 for each in counted):
        _fail(reader, document.start, "a number of this head is none")
    try:
        items.place(item, () if entry is None else entry.key)
    except (TypeError, ValueError, OverflowError) as error:
        _fail(reader, document.start, f"the key of this {kind} cannot be one: {error}")
    return item


def read_end(reader: FileReader, document: Document) -> tuple[dict[str, Any], Any]:
    """The counts of the end by namespace, as ``Tally.as_dict`` makes them, and its checksum.

    Raises:
        ImportSourceError: it is none.
    """
    end = document.value["end"]
    if type(end) is not dict or type(end.get("counts")) is not dict:
        _fail(reader, document.start, "its end cannot be read")
    return end["counts"], end.get("xxh3_128")
