"""What a store knows of its namespaces: layouts of records and numbers of indexes.

Layout: one entry, ``b"\\x00\\x00"``, with a ``codec`` value:

    [1, {namespace: {...}, ...}]         1: the version of all that namespaces keep in a store

    of each: {"key": [field, ...],
              "layouts": [[schema version, [field, ...]], ...],
              "indexes": {"field,field": number, ...},
              "next_index": number,
              "secrets": [field, ...],
              "history": number}

    A layout's number is its place in the list. Lists only grow. A number of an index is never given
    to another one.

Invariants:
    1. A layout is committed before, or with, the first record that refers to it.
    2. An index is in here if and only if it has an entry for every record. One that the code
       declares and the store has not is built, whole, in the commit that adds it; one that the
       store has and the code does not declare is removed in the same way, since nobody would keep
       it up to date.
    3. No record has more old versions than ``history`` says, which is what the code declares.
    4. A namespace that has records is not registered for the first time: what they are only the
       entry that is lost can say. ``walkv.ops.rebuild_registry`` puts it back where it can be told.
    5. A field that was ever declared a secret is named in ``secrets``, for those who read records
       without their class.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from walkv.errors import CodecError, FormatError
from walkv.namespaces import codec
from walkv.namespaces.keyvalue import Reader, Writer
from walkv.namespaces.schema import Layout

KEY: Final = b"\0\0"


class Entry(NamedTuple):
    """What is registered of one namespace."""

    key: tuple[str, ...]
    layouts: list[Layout]
    indexes: dict[str, int]
    next_index: int
    secrets: list[str]
    history: int

    @property
    def newest_version(self) -> int:
        """The newest schema version of its layouts; 0 if there are none."""
        return max((layout.version for layout in self.layouts), default=0)


VERSION: Final = 1
NOTHING: Final = Entry((), [], {}, 1, [], 0)


def read(reader: Reader) -> dict[str, Entry]:
    """Everything that is registered.

    Raises:
        FormatError: the records are of a newer version.
        CodecError: the entry is not what walkv writes.
    """
    data = reader.get(KEY)
    if data is None:
        return {}
    try:
        version, entries = codec.decode(data)
        if version != VERSION:
            raise FormatError(
                f"the records of this store are of version {version}, and this walkv reads "
                f"version {VERSION}; use a newer walkv",
                found_version=version,
                supported=(VERSION,),
            )
        return {
            name: Entry(
                tuple(entry["key"]),
                [Layout(number, tuple(names)) for number, names in entry["layouts"]],
                dict(entry["indexes"]),
                entry["next_index"],
                list(entry["secrets"]),
                entry.get("history", 0),
            )
            for name, entry in entries.items()
        }
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CodecError("the registry of the namespaces is not what walkv writes") from error


def refuse_records(reader: Reader, base: bytes, records: bytes, path: str) -> None:
    """See that a namespace whose keys begin with ``base`` has no records; see invariant 4.

    Raises:
        FormatError: it has.
    """
    if next(reader.scan(records, limit=1, keys_only=True), None) is not None:
        raise FormatError(
            f"namespace {base[1:-1].decode()}: the store has records of it, and does not know what "
            "their fields are, as after damage; restore a backup, tell it with "
            "walkv.ops.rebuild_registry(store, [declaration]), or delete them with "
            f"walkv.open(path).delete_range(prefix={base!r})",
            path=path,
        )


def write(tx: Writer, entries: dict[str, Entry]) -> None:
    """Replace what is registered."""
    plain: dict[str, Any] = {
        name: {
            "key": list(entry.key),
            "layouts": [[version, list(names)] for version, names in entry.layouts],
            "indexes": entry.indexes,
            "next_index": entry.next_index,
            "secrets": entry.secrets,
            "history": entry.history,
        }
        for name, entry in entries.items()
    }
    tx.put(KEY, codec.encode([VERSION, plain]))
