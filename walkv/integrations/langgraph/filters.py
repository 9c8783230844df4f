"""Filters of a search: which values meet them.

    {"status": "open", "score": {"$gte": 0.5}, "author": {"name": {"$ne": "ada"}}}

A filter names fields. What a field is held against is a value that it equals, operators that it
meets, all of them, or a dictionary that is a filter of its own; lists are held against each other
element by element. A field that is missing is None.

Invariants:
    1. A filter is refused for what it says, not for what the values are: one with an operator that
       there is none of raises ``ValueError`` also where nothing is stored.
    2. What cannot be compared does not match. Nothing is converted to be compared.

Source: LangGraph's store in memory, which reads numbers out of text and fails where it cannot.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

Filter = Mapping[str, Any]
"""What fields are held against, by name."""

_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def check(wanted: Filter) -> None:
    """See whether a filter can be used.

    Raises:
        ValueError: it has an operator that there is none of.
    """
    for each in wanted.values():
        _check(each)


def _check(wanted: Any) -> None:
    if isinstance(wanted, list | tuple):
        for each in wanted:
            _check(each)
    elif isinstance(wanted, dict):
        if not _has_operators(wanted):
            check(wanted)
        elif unknown := [name for name in wanted if name not in _OPERATORS]:
            known = ", ".join(_OPERATORS)
            raise ValueError(f"a filter has no operator {unknown[0]!r}; there are {known}")


def _has_operators(wanted: dict[Any, Any]) -> bool:
    return any(isinstance(name, str) and name.startswith("$") for name in wanted)


def matches(value: Mapping[str, Any], wanted: Filter) -> bool:
    """Whether a value meets a filter that ``check`` has passed."""
    return all(_meets(value.get(name), each) for name, each in wanted.items())


def _meets(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        if _has_operators(wanted):
            return all(_compare(name, value, each) for name, each in wanted.items())
        return isinstance(value, dict) and matches(value, wanted)
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(map(_meets, value, wanted))
        )
    return _compare("$eq", value, wanted)


def _compare(name: str, value: Any, wanted: Any) -> bool:
    try:
        return bool(_OPERATORS[name](value, wanted))
    except (TypeError, ArithmeticError):  # types without an order; a decimal that signals
        return False
