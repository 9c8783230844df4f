"""Histograms: what they count, and how near their percentiles come."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from walkv import Histogram
from walkv.engine.meter import Recorder

VALUES = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-9, 1e6), st.integers(1, 1_000)), min_size=1, max_size=200
)


def recorded(values: list[float]) -> Histogram:
    recorder = Recorder()
    for value in values:
        recorder.record(value)
    return recorder.histogram()


@given(VALUES, st.floats(0, 100))
def test_a_percentile_is_at_most_an_eighth_too_high(values: list[float], percent: float) -> None:
    found = recorded(values)
    ordered = sorted(values)
    # The smallest value that so many percent do not pass.
    passed = [v for n, v in enumerate(ordered, 1) if n >= len(values) * percent / 100]
    assert passed[0] <= found.percentile(percent) <= passed[0] * 1.125 * (1 + 1e-12)


@given(VALUES)
def test_counts_sums_and_bounds(values: list[float]) -> None:
    found = recorded(values)
    assert (found.count, found.largest) == (len(values), max(values))
    assert found.total == pytest.approx(sum(values))
    assert found.mean == pytest.approx(sum(values) / len(values))
    bounds = [bound for bound, _ in found.buckets]
    assert bounds == sorted(set(bounds))
    lower = -1.0
    for bound, count in found.buckets:
        assert count == sum(lower < value <= bound for value in values) > 0
        lower = bound


def test_nothing_recorded() -> None:
    empty = Recorder().histogram()
    assert (empty.count, empty.mean, empty.percentile(50), empty.largest) == (0, 0.0, 0.0, 0.0)
    assert empty == Histogram()


@given(VALUES, VALUES)
def test_what_was_added_since(before: list[float], added: list[float]) -> None:
    recorder = Recorder()
    for value in before:
        recorder.record(value)
    older = recorder.histogram()
    for value in added:
        recorder.record(value)
    difference = recorder.histogram().since(older)
    assert (difference.count, difference.buckets) == (len(added), recorded(added).buckets)
    assert max(added) <= difference.largest <= max(added) * 1.125 * (1 + 1e-12)


@pytest.mark.parametrize("percent", [-1, 101, float("nan")])
def test_a_percentile_is_of_a_hundred(percent: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        recorded([1.0]).percentile(percent)
