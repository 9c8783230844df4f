"""The conditions of a query: ``field comparison wanted``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, NamedTuple

from walkv.errors import CodecError, LimitError
from walkv.namespaces import codec, keys
from walkv.namespaces.schema import Schema
from walkv.namespaces.table import Table

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "in": lambda value, wanted: value in wanted,
    "contains": lambda value, wanted: wanted in value,
    "startswith": lambda value, wanted: value.startswith(wanted),
}


class Condition(NamedTuple):
    """``field comparison wanted``."""

    field: str
    comparison: str
    wanted: Any

    def __str__(self) -> str:
        return f"{self.field}__{self.comparison}"

    def __repr__(self) -> str:
        return f"<{self}>"  # what is wanted may be a secret


def condition_of(schema: Schema[Any], name: str, wanted: Any) -> Condition:
    """The condition that ``where(name=wanted)`` asks for.

    Raises:
        CodecError: there is no such field or comparison, or the value is not of its type.
    """
    field_name, _, comparison = name.rpartition("__")
    if not field_name or name in schema.position:
        field_name, comparison = name, "eq"
    if field_name not in schema.position:
        raise schema.bad(field_name, f"there is no such field; {', '.join(schema.names)}")
    if comparison not in _COMPARISONS:
        known = ", ".join(_COMPARISONS)
        raise schema.bad(field_name, f"there is no comparison {comparison!r}; {known}")
    column = schema.columns[schema.position[field_name]]
    if comparison == "in":
        if not isinstance(wanted, list | tuple | set | frozenset):
            raise schema.bad(
                field_name, f"in takes a list of values, not a {type(wanted).__name__}"
            )
        if isinstance(wanted, set | frozenset):  # cursors tell queries apart, in every process
            wanted = sorted(wanted, key=codec.encode)
        wanted = [schema.check(column, each) for each in wanted]
    elif comparison not in ("contains", "startswith"):
        wanted = schema.check(column, wanted)
    return Condition(field_name, comparison, wanted)


def all_meet(records: list[Any], conditions: tuple[Condition, ...]) -> bool:
    """Whether all records meet conditions that an index knows, at the speed of C."""
    try:
        return all(
            all(map(_COMPARISONS[comparison], map(attrgetter(name), records), repeat(wanted)))
            for name, comparison, wanted in conditions
        )
    except TypeError:  # None, which is in no order
        return False


def meets(record: Any, condition: Condition) -> bool:
    """Whether a record meets a condition. What cannot be compared does not."""
    value = getattr(record, condition.field)
    comparison = condition.comparison
    if value is None and comparison not in ("eq", "ne", "in"):
        return False
    try:
        return _COMPARISONS[comparison](value, condition.wanted)
    except (TypeError, AttributeError):
        return False


def packed_of(table: Table[Any], condition: Condition) -> bytes | None:
    """What a condition wants as a part of a key; None if no key has it, so that it only filters."""
    try:
        return table.pack(condition.field, condition.wanted)
    except (CodecError, LimitError):
        return None


def bounds_of(table: Table[Any], prefix: bytes, condition: Condition) -> tuple[bytes, bytes] | None:
    """The stretch of keys behind ``prefix`` that a condition on the next field allows."""
    comparison = condition.comparison
    if comparison not in ("lt", "lte", "gt", "gte") or condition.wanted is None:
        return None
    packed = packed_of(table, condition)
    if packed is None:
        return None
    edge = prefix + packed
    # None is not comparable, so it meets no bound: it comes first, and is left out below.
    first = prefix + keys.NONE + keys.END
    if comparison == "lt":
        return first, edge
    if comparison == "lte":
        return first, edge + keys.END
    if comparison == "gt":
        return edge + keys.END, prefix + keys.END
    return edge, prefix + keys.END
