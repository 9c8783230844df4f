"""What is different between two values: where, and how.

Invariants:
    1. Two values have no difference if and only if they are equal, types included.
    2. A difference is told as deep inside as it can be: of a mapping its keys, of a list its
       elements.

Source: elements of lists are paired as ``difflib`` pairs lines, so that one that was put in is one
difference, and not one for each element behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Final, Literal, NamedTuple

from walkv.errors import CodecError
from walkv.namespaces import codec

_MOST_PAIRS: Final = 1_000_000
"""Longer stretches of lists are compared place by place: pairing takes time with its square."""


class Difference(NamedTuple):
    """One difference.

    Attributes:
        path: keys and places from the outside in; places are of the new list, or of the old one if
            the element was removed.
        before, after: the values; None for what was not, or is not there.
    """

    path: tuple[Any, ...]
    kind: Literal["added", "removed", "changed"]
    before: Any
    after: Any


def differences(before: Any, after: Any, path: tuple[Any, ...] = ()) -> Iterator[Difference]:
    """What is different between two values that ``codec`` knows, or that are made of such.

    Cost: proportional to their size; lists that differ in many places take longer.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _of_mappings(before, after, path)
    elif isinstance(before, list | tuple) and type(before) is type(after):
        yield from _of_lists(before, after, path)
    elif _token(before) != _token(after):
        yield Difference(path, "changed", before, after)


def _of_mappings(
    before: Mapping[Any, Any], after: Mapping[Any, Any], path: tuple[Any, ...]
) -> Iterator[Difference]:
    for key, old in before.items():
        if key in after:
            yield from differences(old, after[key], (*path, key))
        else:
            yield Difference((*path, key), "removed", old, None)
    for key, new in after.items():
        if key not in before:
            yield Difference((*path, key), "added", None, new)


def _of_lists(
    before: Sequence[Any], after: Sequence[Any], path: tuple[Any, ...]
) -> Iterator[Difference]:
    old, new = list(map(_token, before)), list(map(_token, after))
    for low, high, new_low, new_high in _stretches(old, new):
        shared = min(high - low, new_high - new_low)
        for number in range(shared):
            place = (*path, new_low + number)
            yield from differences(before[low + number], after[new_low + number], place)
        for number in range(low + shared, high):
            yield Difference((*path, number), "removed", before[number], None)
        for number in range(new_low + shared, new_high):
            yield Difference((*path, number), "added", None, after[number])


def _stretches(old: list[Any], new: list[Any]) -> Iterator[tuple[int, int, int, int]]:
    """Where two lists differ: the bounds in the one, and in the other."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    inside, new_inside = old[start : len(old) - end], new[start : len(new) - end]
    if len(inside) * len(new_inside) > _MOST_PAIRS:
        yield start, len(old) - end, start, len(new) - end
        return
    matcher = SequenceMatcher(None, inside, new_inside, autojunk=False)
    for kind, low, high, new_low, new_high in matcher.get_opcodes():
        if kind != "equal":
            yield start + low, start + high, start + new_low, start + new_high


def _token(value: Any) -> Any:
    """Something that is equal for equal values only, and that can be hashed."""
    try:
        return codec.encode(value)
    except CodecError:
        return type(value).__qualname__, repr(value)
