from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkv.cli.text import escaped, for_json, one_line, to_bytes

NASTY = st.one_of(
    st.binary(),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from([b"\\", b"x", b"ff", b"\xff", b"n", b"\n", b"\xc3", b"\xa9"])).map(
        b"".join
    ),
)


def unescaped(text: str) -> bytes:
    """The inverse of ``escaped``, written from its description alone."""
    short = {"\\\\": b"\\", "\\n": b"\n", "\\r": b"\r", "\\t": b"\t"}
    parts = re.findall(r"\\x[0-9a-f]{2}|\\[\\nrt]|[^\\]", text)
    assert "".join(parts) == text
    return b"".join(
        bytes.fromhex(part[2:]) if part.startswith("\\x") else short.get(part) or part.encode()
        for part in parts
    )


@given(NASTY)
def test_escaped_text_stands_for_one_row_of_bytes_only(data: bytes) -> None:
    shown = escaped(data)
    assert unescaped(shown) == data
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"user/1", "user/1"),
        ("日本 Zoë".encode(), "日本 Zoë"),
        (b"", ""),
        (b"C:\\n", "C:\\\\n"),
        (b"\r\n\t", "\\r\\n\\t"),
        (b"\x00\x1b[31m", "\\x00\\x1b[31m"),
        (b"\xff\xc3", "\\xff\\xc3"),
        ("\u202e".encode(), "\\xe2\\x80\\xae"),
    ],
)
def test_escaped(data: bytes, expected: str) -> None:
    assert escaped(data) == expected


@given(NASTY)
def test_json_stands_for_one_row_of_bytes_only(data: bytes) -> None:
    found = json.loads(json.dumps(for_json(data)))
    back = base64.b64decode(found["base64"]) if isinstance(found, dict) else found.encode()
    assert back == data
    assert bytes.fromhex(for_json(data, as_hex=True)) == data


@given(NASTY)
def test_an_argument_keeps_the_bytes_it_had_on_the_command_line(data: bytes) -> None:
    assert to_bytes(data.decode("utf-8", "surrogateescape"), as_hex=False) == data
    assert to_bytes(data.hex(), as_hex=True) == data


@given(st.text())
def test_a_message_stays_on_its_line(text: str) -> None:
    assert one_line(text).isprintable()
