"""Merging sorted runs against a dict."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from walkv.engine.merge import Chunk, Run, merge
from walkv.engine.ranges import NO_RANGES, RangeSet

KEYS = st.binary(min_size=1, max_size=2).map(lambda raw: bytes(b % 6 + 97 for b in raw))
SOURCE = st.tuples(
    st.dictionaries(KEYS, st.one_of(st.binary(max_size=3), st.none()), max_size=25),
    st.lists(st.tuples(KEYS, st.one_of(st.none(), KEYS)), max_size=3),
    st.integers(1, 7),
)
Source = tuple[dict[bytes, bytes | None], list[tuple[bytes, bytes | None]], int]


def chunks(source: Source, *, reverse: bool) -> Iterator[Chunk]:
    entries, _, size = source
    keys = sorted(entries)
    starts = range(0, len(keys), size)
    for start in reversed(starts) if reverse else starts:
        part = keys[start : start + size]
        items = [entries[key] for key in part]
        yield Chunk(part, items, None not in items)


def ranges_of(source: Source) -> RangeSet:
    found = NO_RANGES
    for start, stop in source[1]:
        if stop is None or start < stop:
            found = found.adding(start, stop)
    return found


@given(st.lists(SOURCE, max_size=5), st.booleans())
def test_against_a_dict(sources: list[Source], reverse: bool) -> None:
    model: dict[bytes, bytes | None] = {}
    for source in reversed(sources):  # oldest first
        ranges = ranges_of(source)
        model = {key: item for key, item in model.items() if not ranges.covers(key)}
        model.update(source[0])
    runs = [Run(chunks(source, reverse=reverse), ranges_of(source)) for source in sources]
    found: list[tuple[bytes, bytes | None]] = []
    for keys, items, plain in merge(runs, reverse=reverse):
        assert keys
        assert keys == sorted(set(keys))
        assert not plain or None not in items
        pairs = list(zip(keys, items, strict=True))
        found += pairs[::-1] if reverse else pairs
    assert found == sorted(model.items(), reverse=reverse)


def test_a_stretch_that_only_one_run_has() -> None:
    items: list[object] = [b"1", b"2"]
    only = Chunk([b"x", b"y"], items, True)
    other = Chunk([b"a"], [b"0"], True)
    found = list(merge([Run(iter([only]), NO_RANGES), Run(iter([other]), NO_RANGES)]))
    assert [chunk.keys for chunk in found] == [[b"a"], [b"x", b"y"]]
    assert found[1].items == items


def test_nothing() -> None:
    assert list(merge([])) == []
    assert list(merge([Run(iter(()), NO_RANGES)] * 3, reverse=True)) == []
