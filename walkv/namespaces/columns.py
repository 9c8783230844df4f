"""The fields of a record type: what may be in each, told from its annotation.

Invariant: what passes a check is of the very type that is stored: text where an enumeration of
text was given, a float where an integer was, a time in UTC.

Source: the checks of the schema libraries were rejected: they convert more than they check, and
cost more than the rest of a write.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, Union

_ORDERED: Final = frozenset((str, int, float, bool, bytes, datetime))
"""Types whose values have an order; see ``keys``."""


class Column(NamedTuple):
    """A field of a record type.

    Attributes:
        kind: the type whose instances need no further check, or None.
        check: gives the value to store, or raises ``ValueError`` or ``TypeError``.
        nullable: whether it may be None.
        ordered: whether its values, None aside, are of one type that has an order, so that it may
            be in a key or an index.
        secret: whether its value is kept out of errors, listings and exports.
    """

    name: str
    kind: type | None
    check: Callable[[Any], Any]
    default: Callable[[], Any] | None
    nullable: bool
    ordered: bool
    secret: bool


def column_of(namespace: str, field: Field[Any], annotation: Any) -> Column:
    """The column of a field of a dataclass.

    Raises:
        TypeError: it is of a type that cannot be stored, or a secret that ``repr`` would show.
    """
    kind, check = _checker(annotation)
    if check is None:
        raise TypeError(
            f"{namespace}.{field.name}: a field cannot be a {annotation!r}; use str, int, float, "
            "bool, bytes, datetime, Literal, dict, list, tuple, set or Any"
        )
    default: Callable[[], Any] | None = None
    if field.default is not MISSING:
        value = field.default
        default = lambda: value  # noqa: E731  # as short as it can be said
    elif field.default_factory is not MISSING:
        default = field.default_factory
    try:
        nullable = check(None) is None
    except (TypeError, ValueError):
        nullable = False
    secret = bool(field.metadata.get("secret"))
    if secret and field.repr:
        raise TypeError(f"{namespace}.{field.name}: a secret has repr=False")
    return Column(field.name, kind, check, default, nullable, _is_ordered(annotation), secret)


_Checker = tuple[type | None, Callable[[Any], Any] | None]


def _alternatives(annotation: Any) -> list[Any]:
    """What a field may be, None aside."""
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    return [each for each in typing.get_args(annotation) if each is not type(None)]


def _is_ordered(annotation: Any) -> bool:
    first, *others = _alternatives(annotation)
    if typing.get_origin(first) is Literal:
        kinds = {type(choice) for choice in typing.get_args(first)} - {type(None)}
        return not others and len(kinds) == 1
    return not others and first in _ORDERED


def _checker(annotation: Any) -> _Checker:
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = _alternatives(annotation)
        kind, check = _checker(inner[0]) if len(inner) == 1 else (None, _any_of(inner))
        if check is None or len(inner) == len(typing.get_args(annotation)):
            return kind, check
        return kind, _or_none(check)
    if origin is Literal:
        return None, _one_of(typing.get_args(annotation))
    if annotation is Any:
        return None, lambda value: value
    return _CHECKERS.get(origin or annotation, (None, None))


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _any_of(annotations: list[Any]) -> Callable[[Any], Any] | None:
    checks = [_checker(annotation)[1] for annotation in annotations]
    if None in checks:
        return None
    wanted = " or ".join(getattr(each, "__name__", str(each)) for each in annotations)

    def check(value: Any) -> Any:
        for each in checks:
            try:
                return each(value)  # type: ignore[misc]  # none is None, see above
            except (TypeError, ValueError):
                continue
        raise TypeError(f"{wanted} is wanted, and this is {type(value).__name__}")

    return check


def _one_of(choices: tuple[Any, ...]) -> Callable[[Any], Any]:
    known = {choice: choice for choice in choices}

    def check(value: Any) -> Any:
        try:
            return known[value]
        except (KeyError, TypeError):
            wanted = ", ".join(map(repr, choices))
            raise ValueError(f"{str(value)[:40]!r} is not one of {wanted}") from None

    return check


def _plain(kind: type) -> _Checker:
    def check(value: Any) -> Any:
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return str.__str__(value) if kind is str else kind(value)
        raise TypeError(f"{kind.__name__} is wanted, and this is {type(value).__name__}")

    return kind, check


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"float is wanted, and this is {type(value).__name__}")


def _moment(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"datetime is wanted, and this is {type(value).__name__}")
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise ValueError("a time needs a time zone: use datetime.now(UTC)")
    return value.astimezone(UTC)


_CHECKERS: Final[dict[Any, _Checker]] = {
    **{kind: _plain(kind) for kind in (str, int, bool, bytes, dict, list, tuple, set, frozenset)},
    float: (float, _number),
    datetime: (None, _moment),
}
