"""Values as JSON, and documents as bytes: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walkv.errors import CodecError, ImportSourceError
from walkv.namespaces import codec
from walkv.ops.moving import framing
from walkv.ops.moving.framing import FORMATS, FileReader
from walkv.ops.moving.jsonform import TAGS, from_json, to_json

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 200), 1 << 200),
    st.floats(),
    texts,
    st.sampled_from(sorted(TAGS)),
    st.binary(max_size=20),
    times,
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.builds(msgpack.ExtType, st.integers(20, 127), st.binary(max_size=9)),
)
hashables = st.one_of(texts, st.integers(), st.binary(max_size=5), st.dates(), st.uuids())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=4),
        st.tuples(st.sampled_from(sorted(TAGS)), inner).map(lambda pair: dict([pair])),
        st.sets(hashables, max_size=4),
        st.frozensets(hashables, max_size=4),
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=300, deadline=None)
def test_every_value_comes_back_to_the_type(value: Any) -> None:
    text = json.dumps(to_json(value), ensure_ascii=False, allow_nan=False)
    assert codec.encode(from_json(json.loads(text))) == codec.encode(value)


@given(st.lists(values, min_size=1, max_size=4), st.sampled_from(FORMATS))
@settings(max_examples=60, deadline=None)
def test_documents_come_back_from_a_file(
    tmp_path_factory: pytest.TempPathFactory, found: list[Any], form: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "documents"
    wrapped = [{"value": value} for value in found]
    path.write_bytes(b"".join(framing.encode(each, form) for each in wrapped))
    with path.open("rb") as file:
        read = [document.value for document in FileReader(file, str(path)).documents()]
    assert codec.encode(read) == codec.encode(wrapped)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x00\xff", {"base64": "AP8="}),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), {"datetime": "2026-01-02T03:04:05.000006+00:00"}),
        (1 << 53, 1 << 53),
        ((1 << 53) + 1, {"int": "0x20000000000001"}),
        (float("-inf"), {"float": "fff0000000000000"}),
        ((1, [2]), {"tuple": [1, [2]]}),
        ({1: 2}, {"map": [[1, 2]]}),
        ({"base64": "x"}, {"map": [["base64", "x"]]}),
        ({"base64": "x", "y": 1}, {"base64": "x", "y": 1}),
    ],
)
def test_the_form_that_is_documented(value: Any, expected: Any) -> None:
    assert to_json(value) == expected
    assert from_json(expected) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"base64": "!"}',
        '{"base64": 7}',
        '{"int": "zz"}',
        '{"float": "00"}',
        '{"datetime": "2026-01-01"}',
        '{"datetime": "yesterday"}',
        '{"uuid": "x"}',
        '{"decimal": "x"}',
        '{"timedelta": [99999999999, 0, 0]}',
        '{"set": [[]]}',
        '{"map": [[1, 2], [1, 3]]}',
        '{"map": [1]}',
        '{"ext": [999, "AA=="]}',
        '{"ext": []}',
        '{"v": NaN}',
        '{"v": 1e999}',
        '{"v": ',
        "{" + '"a":{' * 50_000,
        '{"v": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"v": "\udcff"}',
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_document_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"{}\n" + text.encode(errors="surrogateescape") + b"\n")
    with path.open("rb") as file, pytest.raises(ImportSourceError) as caught:
        list(FileReader(file, str(path)).documents())
    assert caught.value.offset_bytes == 3
    assert str(caught.value).startswith(f"{path} at byte 3: ")


@pytest.mark.parametrize(
    "data",
    [
        b"\xc4\x01\xc1",
        b"\xc4\x02\x01\x01",
        b"\xc4\x01\x91",
        b"\xc5\xff\xff" + b"\x91" * 65_535,
        b"\xc6\xff\xff\xff\xff",
        b"\x93abc",
    ],
)
def test_what_is_no_msgpack_document_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.msgpack"
    path.write_bytes(b"\xc4\x01\x80" + data)
    with path.open("rb") as file, pytest.raises(ImportSourceError) as caught:
        list(FileReader(file, str(path)).documents())
    assert caught.value.offset_bytes == 3


def test_a_length_is_not_believed_before_it_was_held_against_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bomb.msgpack"
    path.write_bytes(b"\xc6\x7f\xff\xff\xff")
    with path.open("rb") as file, pytest.raises(framing.Cut):
        list(FileReader(file, str(path)).documents())


def test_too_deep_for_json_is_told_and_msgpack_takes_it() -> None:
    value: Any = []
    for _ in range(480):
        value = [value]
    assert codec.decode(framing.encode(value, "msgpack")[3:]) == value
    for _ in range(5000):
        value = [value]
    with pytest.raises(CodecError, match="msgpack"):
        framing.encode(value, "jsonl")
