"""What all sources are: items that can be gone through more than once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from walkv.errors import ImportSourceError
from walkv.namespaces.base import Declaration
from walkv.namespaces.faces import CLASSES
from walkv.namespaces.registry import NOTHING, Entry
from walkv.namespaces.schema import Layout
from walkv.ops.moving.items import RECORD, Item, Problems


class Source(Protocol):
    """Where items come from.

    Attributes:
        kind: its name, as ``import_`` takes it.
        path: of the file, for errors and reports.
        namespaces: of its records, as a store registers them.
        raw: its entries are those of namespaces, too.
        item_count: about so many items.
    """

    kind: str
    path: str
    namespaces: dict[str, Entry]
    raw: bool
    item_count: int

    @property
    def masked(self) -> dict[str, tuple[str, ...]]:
        """Fields that are not there as they were, by namespace; told once it was checked."""

    def check(self) -> None:
        """See whether it is whole, as far as that can be told before anything is written."""

    def items(self, problems: Problems) -> Iterator[Item]:
        """All items, the same ones each time. What is none becomes a problem."""


def declared(*names: str) -> dict[str, Entry]:
    """What walkv's own namespaces are registered as."""
    made = {}
    for name in names:
        declaration: Declaration[object] = CLASSES[name].declaration
        fields = tuple(declaration.record.__dataclass_fields__)  # type: ignore[attr-defined]
        key = (declaration.key,) if isinstance(declaration.key, str) else tuple(declaration.key)
        layout = Layout(declaration.version, fields)
        made[name] = NOTHING._replace(key=key, layouts=[layout])
    return made


def record(namespace: str, **fields: object) -> Item:
    """A record of one of walkv's own namespaces, with the fields that it has to have."""
    names = CLASSES[namespace].declaration.record.__dataclass_fields__
    return Item(namespace, RECORD, {name: fields[name] for name in names})


def empty(path: str, what: str) -> ImportSourceError:
    """The error for a source without anything in it."""
    return ImportSourceError(f"there is nothing to import: {what}", path=path)
