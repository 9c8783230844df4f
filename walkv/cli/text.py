"""Bytes as text, and text as bytes: how keys and values are shown and given.

Invariants:
    1. What is shown is unambiguous: two different keys never look the same, and every shown key
       can be turned back into its bytes.
    2. What is shown is one line, and does nothing to a terminal.
"""

from __future__ import annotations

import base64
import os
from typing import Any

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(data: bytes) -> str:
    r"""Bytes as printable text on one line.

    Printable UTF-8 stays as it is; a backslash is doubled; line breaks and tabs become ``\n``,
    ``\r`` and ``\t``; each byte of anything else becomes ``\xNN``.

    >>> escaped("caf\u00e9 \\ \n".encode() + b"\xff")
    'café \\\\ \\n\\xff'
    """
    text = data.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escaped_character, text))


def _escaped_character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    raw = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)


def one_line(text: str) -> str:
    """A message with whatever is not printable escaped, so that it stays on its line."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def path_text(path: str | bytes) -> str:
    """A path for a person."""
    return one_line(os.fsdecode(path))


def shown(data: bytes, as_hex: bool) -> str:
    """A key or value for a person."""
    return data.hex() if as_hex else escaped(data)


def for_json(data: bytes, as_hex: bool = False) -> Any:
    """A key or value for a program.

    A string where the bytes are UTF-8, else ``{"base64": "..."}``; with ``as_hex`` always a string
    of hex digits.
    """
    if as_hex:
        return data.hex()
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def to_bytes(text: str, as_hex: bool) -> bytes:
    """The bytes meant by an argument: its UTF-8, or what its hex digits stand for.

    An argument that was not UTF-8 on the command line keeps the bytes it had there.

    Raises:
        ValueError: not hex digits.
    """
    if as_hex:
        return bytes.fromhex(text)
    return text.encode("utf-8", "surrogateescape")
