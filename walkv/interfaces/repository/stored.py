"""What an entity becomes in the store: a frozen record, and the namespace that holds them.

An application's dataclass may change under the hands of whoever holds it, and have UUIDs; a record
of a namespace is frozen, and its keys are text. So each entity type has a record type made of it,
and a ``Shape`` that converts between the two.

Layout: the fields of the record are those of the entity, under their names. A ``UUID`` is its text.
A time that the repository sets is never None: entities from before the field was there have 1970.

Invariants:
    1. A record whose parent is given is written only where the parent is, and goes with it, in one
       commit.
    2. An entity is changed only after its record was written.
"""

from __future__ import annotations

import builtins
import functools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

from walkv.engine.policies import SyncPolicy
from walkv.errors import CodecError, LimitError, RecordNotFoundError
from walkv.interfaces.repository.records import children_of, parents_of
from walkv.namespaces import registry
from walkv.namespaces.access import Access
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.keyvalue import Writer

T = TypeVar("T")
R = TypeVar("R")

_UNKNOWN_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ADDED: Final = "auto_now_add"
_CHANGED: Final = "auto_now"
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class EntityDeclaration(Declaration[R]):
    """A declaration that knows the family of its records.

    Attributes:
        parents: by the field that holds their id.
        children: with the field that holds the id of what they belong to.
    """

    parents: Mapping[str, Declaration[Any]] = field(default_factory=dict)
    children: Sequence[tuple[str, EntityDeclaration[Any]]] = ()


class Entities(Namespace[R]):
    """The records of one entity type; see invariant 1 of the module."""

    def __init__(
        self,
        access: Access,
        declaration: EntityDeclaration[R],
        sync: SyncPolicy | None = None,
    ) -> None:
        super().__init__(access, declaration, sync)
        self.declared = declaration
        self._parents: dict[str, Namespace[Any]] = {
            by: Namespace(access, parent) for by, parent in declaration.parents.items()
        }
        self._children = [(by, Entities(access, child)) for by, child in declaration.children]

    def _family(self) -> builtins.list[Namespace[Any]]:
        return [*self._parents.values(), *(child for _, child in self._children)]

    def attach(self, known: dict[str, registry.Entry]) -> bool:
        """Take in what the store knows of these records and of their family."""
        return all([super().attach(known), *(each.attach(known) for each in self._family())])

    def register(self, tx: Writer, known: dict[str, registry.Entry]) -> None:
        """Tell the store of these records and of their family."""
        super().register(tx, known)
        for each in self._family():
            each.register(tx, known)

    def write_in(
        self,
        tx: Writer,
        key: bytes,
        values: builtins.list[Any],
        old: bytes | None,
        ttl_seconds: float | None,
        **options: Any,
    ) -> None:
        """Write a record, if its parents are there.

        Raises:
            RecordNotFoundError: one is not; nothing was written.
        """
        for by, parent in self._parents.items():
            wanted = values[self.table.schema.position[by]]
            if wanted is None:
                continue
            if tx.get(parent.table.records + parent.table.packed_key(wanted)) is None:
                raise RecordNotFoundError(
                    f"{self.name}.{by}: there is no record {wanted!r} in {parent.name}"
                )
        super().write_in(tx, key, values, old, ttl_seconds, **options)

    def remove_in(self, tx: Writer, key: bytes, old: bytes) -> None:
        """Delete a record, and what belongs to it."""
        for by, child in self._children:
            table = child.table
            index = next(each for each in table.indexes if each.fields[0] == by)
            # Within a batch the scan must be over before anything is deleted.
            found = tx.scan(index.prefix + key)
            for full_key in list(table.record_keys(found)):
                child.delete_in(tx, full_key[len(table.records) :])
        super().remove_in(tx, key, old)


class Shape(Generic[T]):
    """An entity type as it is stored.

    Args:
        entity: a dataclass.
        key: its field that tells entities apart.
        namespace: of the records; by default what ``Meta.table`` says, or the class's name.
        indexes: what entities are found by; by default what ``Meta.indexes`` says.
        sync: policy of the commits.
    Raises:
        TypeError: this is no dataclass that can be stored, or its family is declared otherwise.
    """

    def __init__(
        self,
        entity: type[T],
        key: str,
        namespace: str | None,
        indexes: Sequence[str | Sequence[str]] | None,
        sync: SyncPolicy | None,
    ) -> None:
        self.entity = entity
        self.key = key
        self.record: type[Any] = _record_type(entity)  # type: ignore[arg-type]  # a class has a hash
        if key not in {each.name for each in _fields(entity)}:
            raise TypeError(f"{entity.__name__} has no field {key!r} to tell its records apart")
        related = parents_of(entity) or children_of(entity)
        if related and (namespace is not None or indexes is not None or key != "id"):
            raise TypeError(
                f"{entity.__name__} has parents or children, which know it by what it says of "
                "itself: give it an id, and its table and indexes in its Meta"
            )
        self.name = namespace or _name_of(entity)
        self.declaration = EntityDeclaration(
            self.name,
            self.record,
            key,
            _indexes(entity, indexes),
            sync,
            parents=_as_parents(entity),
            children=_as_children(entity),
        )
        # Whatever cannot be served is refused here, and not at the first use.
        Entities(cast(Access, None), self.declaration)
        self._uuids = {f.name: kind for f in _fields(entity) if (kind := _uuid_kind(entity, f))}
        self._added = tuple(f.name for f in _fields(entity) if f.metadata.get(_ADDED))
        self._changed = tuple(f.name for f in _fields(entity) if f.metadata.get(_CHANGED))
        self._longest = {
            f.name: f.metadata["max_length"] for f in _fields(entity) if "max_length" in f.metadata
        }
        self._frozen = getattr(entity, "__dataclass_params__").frozen  # noqa: B009  # as schema

    @property
    def order(self) -> tuple[str, ...]:
        """What entities are listed by: when they were added, where they say so, then the key."""
        return (*self._added[:1], self.key)

    def values(self, entity: T) -> dict[str, Any]:
        """The fields of an entity as they are stored; times not yet set.

        Raises:
            CodecError: it is of another type, or an id is none.
            LimitError: a text is too long.
        """
        if not isinstance(entity, self.entity):
            raise CodecError(
                f"{self.name}: an entity here is a {self.entity.__name__}, not a "
                f"{type(entity).__name__}",
                namespace=self.name,
            )
        found = {each.name: getattr(entity, each.name) for each in _fields(self.entity)}
        for name in self._uuids:
            found[name] = self._as_text(name, found[name])
        for name, longest in self._longest.items():
            value = found[name]
            if isinstance(value, str) and len(value) > longest:
                raise LimitError(
                    f"{self.name}.{name}: a text here has at most {longest} characters, and this "
                    f"one has {len(value)}",
                    name="max_length",
                    limit=longest,
                    actual=len(value),
                    namespace=self.name,
                    field=name,
                )
        return found

    def stamps(self, values: Mapping[str, Any], now: datetime, *, adding: bool) -> dict[str, Any]:
        """The times to be set on an entity that is written now."""
        made = dict.fromkeys(self._changed, now)
        if adding:
            made.update({name: now for name in self._added if values[name] is None})
        return made

    def changes(self, values: Mapping[str, Any], stamps: Mapping[str, Any]) -> dict[str, Any]:
        """What an update writes: a time of adding that the entity does not know stays."""
        merged = {**values, **stamps}
        del merged[self.key]
        return {n: v for n, v in merged.items() if v is not None or n not in self._added}

    def stamped(self, entity: T, times: Mapping[str, Any]) -> T:
        """The entity with its times; itself, unless it is frozen."""
        if self._frozen:
            kept = {each.name: getattr(entity, each.name) for each in _fields(entity)}
            return self.entity(**{**kept, **times})
        for name, value in times.items():
            setattr(entity, name, value)
        return entity

    def times_of(self, record: Any) -> dict[str, Any]:
        """The times that the repository sets, as a record has them."""
        return {n: self._loaded(n, getattr(record, n)) for n in {*self._added, *self._changed}}

    def load(self, record: Any) -> T:
        """The entity of a record."""
        return self.entity(
            **{f.name: self._loaded(f.name, getattr(record, f.name)) for f in _fields(self.entity)}
        )

    def _loaded(self, name: str, value: Any) -> Any:
        if value is not None and self._uuids.get(name) is UUID:
            return UUID(value)
        timed = name in self._added or name in self._changed
        return None if timed and value == _UNKNOWN_TIME else value

    def _as_text(self, name: str, value: Any) -> Any:
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, str) and self._uuids[name] is UUID:
            try:
                return str(UUID(value))
            except ValueError:
                raise CodecError(
                    f"{self.name}.{name}: this is no UUID: {value[:64]!r}",
                    namespace=self.name,
                    field=name,
                ) from None
        return value

    def wanted(self, name: str, value: Any) -> Any:
        """A value to look for in a field. Text that is no UUID is found nowhere."""
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, str) and self._uuids.get(name) is UUID:
            try:
                return str(UUID(value))
            except ValueError:
                return value
        return value

    def conditions(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Conditions of a query for those of an application."""
        made = {}
        for condition, value in given.items():
            name, _, comparison = condition.rpartition("__")
            if not name or condition in self.declaration.record.__annotations__:
                name, comparison = condition, ""
            if comparison == "in":
                made[condition] = [self.wanted(name, each) for each in value]
            elif comparison in ("startswith", "contains"):
                made[condition] = value
            else:
                made[condition] = self.wanted(name, value)
        return made


def _fields(entity: Any) -> tuple[Field[Any], ...]:
    return tuple(each for each in fields(entity) if each.init)


def _name_of(entity: type) -> str:
    table = getattr(getattr(entity, "Meta", None), "table", None)
    return table or _WORD.sub("_", entity.__name__).strip("_").lower()


def _indexes(
    entity: type, given: Sequence[str | Sequence[str]] | None = None
) -> tuple[tuple[str, ...], ...]:
    """What entities are found by: as given or declared, by their parents, and in their order."""
    if given is None:
        given = getattr(getattr(entity, "Meta", None), "indexes", ())
    wanted = [(each,) if isinstance(each, str) else tuple(each) for each in given]
    added = [each.name for each in _fields(entity) if each.metadata.get(_ADDED)][:1]
    for by in parents_of(entity):
        if by not in {each.name for each in _fields(entity)}:
            raise TypeError(f"{entity.__name__} has no field {by!r}, which names its parent")
        if not any(each[0] == by for each in wanted):
            wanted.append((by, *added))
    if added and tuple(added) not in wanted:
        wanted.append(tuple(added))
    return tuple(wanted)


def _as_child(entity: type) -> EntityDeclaration[Any]:
    return EntityDeclaration(
        _name_of(entity),
        _record_type(entity),
        "id",
        _indexes(entity),
        children=_as_children(entity),
    )


def _as_children(entity: type) -> tuple[tuple[str, EntityDeclaration[Any]], ...]:
    return tuple((each.by, _as_child(each.entity)) for each in children_of(entity))


def _as_parents(entity: type) -> dict[str, Declaration[Any]]:
    return {
        by: Declaration(_name_of(each), _record_type(each), "id", _indexes(each))
        for by, each in parents_of(entity).items()
    }


@functools.cache
def _record_type(entity: Any) -> type[Any]:
    """The record type of an entity type."""
    if not isinstance(entity, type) or not is_dataclass(entity):
        raise TypeError(f"what a repository keeps is a dataclass, not {entity!r}")
    hints = typing.get_type_hints(entity)
    made = [
        (each.name, _stored_annotation(each, hints[each.name]), field(**_default(each)))
        for each in _fields(entity)
    ]
    return make_dataclass(
        f"Stored{entity.__name__}",
        made,
        namespace={"__module__": __name__},
        frozen=True,
        slots=True,
        kw_only=True,
    )


def _timed(each: Field[Any]) -> bool:
    return bool(each.metadata.get(_ADDED) or each.metadata.get(_CHANGED))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _stored_annotation(each: Field[Any], annotation: Any) -> Any:
    if _timed(each):
        return datetime
    if UUID not in _alternatives(annotation):
        return annotation
    rest = [a for a in _alternatives(annotation) if a not in (UUID, str)]
    return functools.reduce(lambda one, other: one | other, rest, str)


def _uuid_kind(entity: type, each: Field[Any]) -> type | None:
    """UUID for a field that is one, str for one that may be text as well, None for others."""
    choices = _alternatives(typing.get_type_hints(entity)[each.name])
    if UUID not in choices:
        return None
    return str if str in choices else UUID


def _default(each: Field[Any]) -> dict[str, Any]:
    """Default and metadata of a stored field: for records from before the entity had it."""
    metadata = {"metadata": each.metadata}
    if _timed(each):
        return {"default": _UNKNOWN_TIME, **metadata}
    if each.default is not MISSING:
        value = each.default
        return {"default": str(value) if isinstance(value, UUID) else value, **metadata}
    if each.default_factory is not MISSING:
        factory = each.default_factory

        def default() -> Any:
            value = factory()
            return str(value) if isinstance(value, UUID) else value

        return {"default_factory": default, **metadata}
    return metadata
