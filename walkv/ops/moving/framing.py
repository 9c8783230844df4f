"""Export files: one document after the other, as lines of JSON or as msgpack.

Layout:

    jsonl      a document as JSON, see ``jsonform``, and a line feed
    msgpack    a msgpack bin that holds a document as ``codec`` writes it

    The first document is the header, the last one the end; ``docs/moving.md`` says what is in them.
    The end has the xxh3-128 of all bytes before it.

A file is whole if and only if:

    1. each of its documents is one, and the first one a header of a version that is known,
    2. the last one is the end, nothing is behind it, and the checksum in it matches,
    3. it has as many items of each namespace as the end says, with those checksums.

No length is believed before it was held against the file.

Source: a list around all of it, as JSON has it, was rejected: a file that was cut would be none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import msgpack
import xxhash

from walkv import limits
from walkv.errors import CodecError, ImportSourceError
from walkv.namespaces import codec
from walkv.ops.moving.jsonform import from_json, to_json

JSONL: Final = "jsonl"
MSGPACK: Final = "msgpack"
FORMATS: Final = (JSONL, MSGPACK)
MARK: Final = "walkv_export"
VERSION: Final = 1

_MOST_BYTES: Final = 2 * limits.GIB
_LINE_ENDS: Final = ("\x85", "\u2028", "\u2029")
"""What JSON allows in text, and some readers of lines take for the end of one."""

_BIN_HEADS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""First byte of a msgpack bin, and the bytes of its length."""


def encode(document: Any, form: str) -> bytes:
    """The bytes of a document.

    Raises:
        CodecError: it is nested too deeply for JSON.
    """
    if form == MSGPACK:
        return msgpack.packb(codec.encode(document))  # type: ignore[no-any-return]  # bytes
    try:
        text = json.dumps(
            to_json(document), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    except RecursionError as error:
        raise CodecError("a value is nested too deeply for JSON; export it as msgpack") from error
    for odd in _LINE_ENDS:
        text = text.replace(odd, f"\\u{ord(odd):04x}")
    return text.encode() + b"\n"


class Document(NamedTuple):
    """A document and where it is.

    Attributes:
        start, stop: offsets of its first byte and of what is behind it.
        data: its bytes.
    """

    start: int
    stop: int
    value: Any
    data: bytes


class Cut(Exception):  # not an error of itself
    """The file ends in the middle of a document."""


class FileReader:
    """An export file, read from its beginning.

    Args:
        file: at offset 0.
        path: for errors.
    Raises:
        ImportSourceError: it is no export file.
    """

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self.path = path
        self.size_bytes = os.fstat(file.fileno()).st_size
        first = file.read(1)
        if first == b"{":
            self.form = JSONL
        elif first and first[0] in _BIN_HEADS:
            self.form = MSGPACK
        else:
            raise self.wrong(0, "it does not begin as an export of walkv does")

    def wrong(self, offset_bytes: int | None, reason: str) -> ImportSourceError:
        """What is raised about this file."""
        return ImportSourceError(reason, path=self.path, offset_bytes=offset_bytes)

    def documents(self) -> Iterator[Document]:
        """The documents, in order.

        Raises:
            Cut: the last one is not whole.
            ImportSourceError: there is one that is none.
        """
        self._file.seek(0)
        start = 0
        while True:
            data = self._line(start) if self.form == JSONL else self._bin(start)
            if not data:
                return
            yield Document(start, start + len(data), self._decode(start, data), data)
            start += len(data)

    def _line(self, start: int) -> bytes:
        data = self._file.readline(_MOST_BYTES)
        if data and not data.endswith(b"\n"):
            if len(data) == _MOST_BYTES:
                raise self.wrong(start, f"a line of more than {_MOST_BYTES} bytes")
            raise Cut
        return data

    def _bin(self, start: int) -> bytes:
        head = self._file.read(1)
        if not head:
            return b""
        size = _BIN_HEADS.get(head[0])
        if size is None:
            raise self.wrong(start, "there is something else than a msgpack bin")
        length = self._file.read(size)
        length_bytes = int.from_bytes(length, "big")
        if length_bytes > _MOST_BYTES:
            raise self.wrong(start, f"a document of {length_bytes} bytes")
        if len(length) < size or start + 1 + size + length_bytes > self.size_bytes:
            raise Cut
        payload = self._file.read(length_bytes)
        if len(payload) < length_bytes:
            raise Cut
        return head + length + payload

    def _decode(self, start: int, data: bytes) -> Any:
        try:
            if self.form == JSONL:
                return from_json(json.loads(data))
            return codec.decode(data[1 + _BIN_HEADS[data[0]] :])
        except RecursionError:
            raise self.wrong(start, "a document is nested too deeply") from None
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            raise self.wrong(
                start, f"a document cannot be read: {type(error).__name__}: {str(error)[:200]}"
            ) from error


def whole_documents(reader: FileReader) -> Iterator[Document]:
    """The documents of a file that is to be whole.

    Raises:
        ImportSourceError: it is not.
    """
    at = 0
    try:
        for document in reader.documents():
            at = document.stop
            yield document
    except Cut:
        raise ImportSourceError(
            "the file ends in the middle: it was cut, or its export was interrupted",
            path=reader.path,
            offset_bytes=at,
        ) from None


class Checksum:
    """The xxh3-128 of all bytes so far."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()

    def add(self, data: bytes) -> None:
        """Take in more bytes."""
        self._hash.update(data)

    @property
    def hex(self) -> str:
        """32 hexadecimal digits."""
        return self._hash.hexdigest()
