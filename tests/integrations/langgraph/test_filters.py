"""Filters of a search: what meets them, what does not, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.memory import InMemoryStore

from walkv.integrations.langgraph import filters

VALUE: dict[str, Any] = {
    "text": "open",
    "number": 5,
    "share": 0.5,
    "yes": True,
    "none": None,
    "list": [1, [2, "x"]],
    "tuple": (1, 2),
    "deep": {"a": {"b": 3, "c": 4}, "n": 1},
    "time": datetime(2026, 1, 1, tzinfo=UTC),
    "$odd": 1,
}

MEETS: list[dict[str, Any]] = [
    {},
    {"text": "open"},
    {"text": "open", "number": 5},
    {"missing": None},
    {"none": None},
    {"$odd": 1},
    {"list": [1, [2, "x"]]},
    {"list": (1, (2, "x"))},
    {"list": [{"$lt": 2}, [{"$gte": 2}, {"$ne": "y"}]]},
    {"tuple": [1, 2]},
    {"deep": {"a": {"b": 3}}},
    {"deep": {"a": {"b": {"$gt": 2, "$lt": 4}}, "n": 1}},
    {"deep": {}},
    {"deep": {"$eq": {"a": {"b": 3, "c": 4}, "n": 1}}},
    {"text": {"$eq": "open"}},
    {"text": {"$ne": "closed"}},
    {"missing": {"$ne": "closed"}},
    {"missing": {"$eq": None}},
    {"text": {"$gt": "nope", "$lte": "open"}},
    {"number": {"$gt": 4.5}},
    {"number": {"$gte": 5, "$lte": 5.0}},
    {"number": {"$lt": 10**30}},
    {"number": {"$lt": float("inf")}},
    {"time": {"$gt": datetime(2025, 1, 1, tzinfo=UTC)}},
]

MEETS_NOT: list[dict[str, Any]] = [
    {"text": "closed"},
    {"text": "open", "number": 6},
    {"missing": 0},
    {"list": [1]},
    {"list": [1, [2, "y"]]},
    {"list": {}},
    {"text": ["o", "p", "e", "n"]},
    {"text": {"length": 4}},
    {"deep": {"a": {"b": 4}}},
    {"deep": {"$eq": {"n": 1}}},
    {"number": {"$gt": 5}},
    {"number": {"$gt": 4, "$lt": 5}},
    # What cannot be compared.
    {"text": {"$gt": 1}},
    {"number": {"$lt": "9"}},
    {"none": {"$gte": 0}},
    {"missing": {"$lt": 1}},
    {"deep": {"$gt": 1}},
    {"list": {"$gt": ["x"]}},
    {"time": {"$gt": datetime(2025, 1, 1)}},
    {"number": {"$gt": Decimal("sNaN")}},
    {"number": {"$gt": float("nan")}},
]


@pytest.mark.parametrize("wanted", MEETS, ids=repr)
def test_what_meets_a_filter(wanted: dict[str, Any]) -> None:
    filters.check(wanted)
    assert filters.matches(VALUE, wanted)


@pytest.mark.parametrize("wanted", MEETS_NOT, ids=repr)
def test_what_does_not(wanted: dict[str, Any]) -> None:
    filters.check(wanted)
    assert not filters.matches(VALUE, wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        {"a": {"$in": [1]}},
        {"a": {"b": {"$gt": 1, "$near": 2}}},
        {"a": {"$gt": 1, "b": 2}},
        {"a": [{"$regex": "x"}]},
    ],
    ids=repr,
)
def test_an_unknown_operator_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a filter has no operator '.*'; there are \$eq, \$ne"):
        filters.check(wanted)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    ),
    max_leaves=6,
)
NUMBERS = st.integers(-3, 3)
WANTED = st.recursive(
    JSON
    | st.fixed_dictionaries(
        {}, optional={"$eq": JSON, "$ne": JSON, "$gt": NUMBERS, "$gte": NUMBERS, "$lt": NUMBERS}
    ).filter(bool),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from("abc"), JSON), st.dictionaries(st.sampled_from("abc"), WANTED)
)
def test_a_filter_says_what_it_says_to_the_store_in_memory(
    value: dict[str, Any], wanted: dict[str, Any]
) -> None:
    filters.check(wanted)
    other = InMemoryStore()
    other.put(("n",), "k", value)
    try:
        expected = bool(other.search(("n",), filter=wanted))
    except (TypeError, ValueError):  # it cannot compare these; text that is no number, say
        expected = None
    if expected is None:
        filters.matches(value, wanted)
    else:
        # It takes text for the number that it shows; nothing here shows one.
        assert filters.matches(value, wanted) == expected
