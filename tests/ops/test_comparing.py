from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkv.ops import Difference, differences

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1, 1, []),
        (1, 2, [((), "changed", 1, 2)]),
        (1, True, [((), "changed", 1, True)]),
        ({"a": 1}, {"a": 1, "b": 2}, [(("b",), "added", None, 2)]),
        ({"a": 1, "b": 2}, {"b": 2}, [(("a",), "removed", 1, None)]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [(("a", "b", 1), "changed", 2, 3)]),
        ([1, 2, 3], [0, 1, 2, 3], [((0,), "added", None, 0)]),
        ([1, 2, 3], [1, 3], [((1,), "removed", 2, None)]),
        ([{"n": 1}], [{"n": 2}], [((0, "n"), "changed", 1, 2)]),
        ({"a": [1]}, {"a": {"b": 1}}, [(("a",), "changed", [1], {"b": 1})]),
    ],
)
def test_what_is_different(before: Any, after: Any, expected: list[Any]) -> None:
    assert list(differences(before, after)) == [Difference(*each) for each in expected]


@given(VALUES, VALUES)
def test_no_difference_means_equal(before: Any, after: Any) -> None:
    assert list(differences(before, before)) == []
    same = repr(_sorted(before)) == repr(_sorted(after))
    assert (not list(differences(before, after))) == same


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def test_values_that_no_store_knows() -> None:
    class Thing:
        def __repr__(self) -> str:
            return "thing"

    assert list(differences([Thing()], [Thing()])) == []
    assert len(list(differences([Thing()], [object()]))) == 1


def test_long_lists_are_compared_place_by_place() -> None:
    before, after = [f"a{n}" for n in range(1_500)], [f"b{n}" for n in range(1_501)]
    kinds = [each.kind for each in differences(before, after)]
    assert kinds == ["changed"] * 1_500 + ["added"]
