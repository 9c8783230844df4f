"""What the demo's agent finds out about a file, and the index pages that it makes of it.

Invariants:
    1. The same bytes give the same facts, in the same order.
    2. Facts are values of JSON, and small, whatever the size of the file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from xxhash import xxh3_64_hexdigest

from walkv import limits

Facts = dict[str, Any]

_LOOKED_INTO_BYTES: Final = 256 * limits.KIB
"""Headings, definitions and words are those of the beginning of a file; lines are counted whole."""

_MOST_HEADINGS: Final = 6
_MOST_WORDS: Final = 5
_LONGEST_HEADING: Final = 60
_LONGEST_KIND: Final = 12
_WORD: Final = re.compile(r"[^\W\d_]{4,24}")
# fmt: off
_COMMON: Final = frozenset((
    "also", "been", "each", "from", "have", "into", "more", "none", "only", "return", "self",
    "should", "some", "such", "than", "that", "their", "them", "then", "there", "they", "this",
    "true", "false", "were", "what", "when", "where", "which", "will", "with",
))
# fmt: on
_KINDS: Final = {".md": "Markdown", ".py": "Python", ".pyi": "Python", ".txt": "text", "": "text"}
_HEADINGS: Final = {
    "Markdown": re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE),
    "Python": re.compile(r"^(?:async )?(?:def|class) +(\w+)", re.MULTILINE),
}


def extract(path: bytes, data: bytes) -> Facts:
    """What is to be said about a file.

    Returns:
        size_bytes, kind, digest; lines, headings (definitions, of a program) and words (the most
        frequent ones) of a text.
    """
    facts: Facts = {
        "size_bytes": len(data),
        "kind": _kind(path, data),
        "digest": xxh3_64_hexdigest(data),
    }
    if facts["kind"] == "binary":
        return facts
    text = data[:_LOOKED_INTO_BYTES].decode(errors="replace")
    facts["lines"] = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    pattern = _HEADINGS.get(facts["kind"])
    if pattern is not None:
        found = pattern.findall(text)
        facts["headings"] = [heading[:_LONGEST_HEADING] for heading in found[:_MOST_HEADINGS]]
    words = Counter(_WORD.findall(text.lower()))
    for word in _COMMON:
        words.pop(word, None)
    most = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    facts["words"] = dict(most[:_MOST_WORDS])
    return facts


def _kind(path: bytes, data: bytes) -> str:
    if not data:
        return "empty"
    beginning = data[:_LOOKED_INTO_BYTES]
    try:
        beginning.decode()
    except UnicodeDecodeError as error:
        # A character that the cut went through is no reason to call a text binary.
        if len(data) <= len(beginning) or error.start < len(beginning) - 3:
            return "binary"
    if b"\0" in beginning:
        return "binary"
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    named = _KINDS.get(suffix, suffix[1:_LONGEST_KIND])
    return named if named.isprintable() else "text"


def describe(name: str, facts: Facts) -> str:
    """One file in a sentence or two: what the agent answers."""
    if "unreadable" in facts:
        return f"{name} could not be read: {facts['unreadable']}."
    if facts["kind"] in ("empty", "binary"):
        return f"{name}: {facts['kind']}, {facts['size_bytes']:,} bytes."
    said = [f"{name}: {facts['kind']}, {_lines(facts['lines'])}, {facts['size_bytes']:,} bytes."]
    if facts.get("headings"):
        what = "Defines" if facts["kind"] == "Python" else "Headings:"
        said.append(f"{what} {', '.join(facts['headings'])}.")
    if facts["words"]:
        said.append(f"Mostly about {', '.join(facts['words'])}.")
    return " ".join(said)


def page(chapter: str, files: Mapping[str, Facts]) -> str:
    """The index page of some files."""
    known = [facts for facts in files.values() if "unreadable" not in facts]
    words: Counter[str] = Counter()
    for facts in known:
        words.update(facts.get("words", {}))
    most = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:_MOST_WORDS]
    count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
    total = f"{_lines(_sum(known, 'lines'))}, {_sum(known, 'size_bytes'):,} bytes"
    about = f"; about {', '.join(word for word, _ in most)}" if most else ""
    return "\n".join([f"{chapter}: {count}, {total}{about}", *map("  {}".format, files)])


def _sum(all_facts: Iterable[Facts], name: str) -> int:
    return sum(facts.get(name, 0) for facts in all_facts)


def _lines(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"
