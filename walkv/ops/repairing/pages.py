"""Pages of a snapshot without what points at them: found where they are, or not at all.

The length of a page is stated by the page that points at it. Where that one is damaged it can be
told from the page itself: a stored payload has ``raw_length`` bytes, and a zstd frame says of each
of its blocks how long it is. Where that is encrypted the checksum tells: it fits one length only.
Behind a damaged page the next one is looked for by its first bytes.

Invariants:
    1. A page is believed only if its checksum is right for the place it stands at, so what looks
       like a page inside a value is not one.
    2. A search gives up once it has hashed many times what it searches: who may choose values
       cannot make it take for ever.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import zstandard
from xxhash import xxh3_64

from walkv import limits
from walkv.engine.cipher import SEAL_BYTES, Sealer
from walkv.engine.frame import SEED_MASK
from walkv.engine.snapshot import layout
from walkv.engine.vfs import File
from walkv.errors import CorruptionError, TamperedError
from walkv.ops.repairing.report import CHANGED

_FIELDS: Final = struct.Struct("<BBHI")
_ZSTD_HEADER_BYTES: Final = 18
_RAW_BLOCK_BYTES: Final = 256
"""No writer makes zstd blocks of fewer decoded bytes than this, but for a handful."""

_WINDOW_BYTES: Final = 1 * limits.MIB
_BEGINNING: Final = re.compile(
    rb"(?=[\x01-\x03](?:\x00[\x00\x01]\x00.{4}[\x93\x99]|\x01[\x00\x01]\x00.{4}\x28\xb5\x2f\xfd))",
    re.DOTALL,
)
"""What follows the checksum of a page: kind, codec, flags, raw length, and how a payload begins."""
_SEALED_BEGINNING: Final = re.compile(rb"(?=[\x01-\x03][\x00\x01][\x00\x01]\x00.{4})", re.DOTALL)
_BEGINNING_BYTES: Final = 20
_PATIENCE: Final = 16
_SEARCH_COST: Final = 64
"""So many bytes can be hashed in the time that it takes to try one more length."""


class Page(NamedTuple):
    """A valid page.

    Attributes:
        payload: decoded.
        plain: as its header states.
    """

    kind: int
    offset: int
    size_bytes: int
    payload: bytes
    plain: bool


class Gap(NamedTuple):
    """Bytes between valid pages."""

    offset: int
    size_bytes: int
    reason: str


class PageFile:
    """An open snapshot and its salt: the one place where pages become payloads.

    Attributes:
        path: the file.
        size: in bytes.
        reason: why the last page that was asked for is not valid.

    Args:
        sealed: the file is encrypted.
        sealer: what opens it then; without it no page is valid, and lengths can be told.
    """

    def __init__(
        self, file: File, salt: int, *, sealed: bool = False, sealer: Sealer | None = None
    ) -> None:
        self._file = file
        self._salt = salt
        self._sealed = sealed or sealer is not None
        self._sealer = sealer
        self._beginning = _SEALED_BEGINNING if self._sealed else _BEGINNING
        self._left_bytes = 0
        self.path = file.path
        self.size = file.size()
        self.reason = ""

    def footer(self) -> layout.SnapshotFooter | None:
        """The footer, or None if it is damaged."""
        offset = self.size - layout.FOOTER_BYTES
        if offset < layout.HEADER_BYTES:
            return None
        data = self._file.read(offset, layout.FOOTER_BYTES)
        try:
            return layout.decode_footer(data, self.path, self._salt, offset)
        except CorruptionError:
            return None

    def opens(self) -> bool:
        """Whether the root, or else the first page, is valid."""
        footer = self.footer()
        if footer is not None and self.page(layout.ROOT, footer.root_offset, footer.root_length):
            return True
        return self.page_at(layout.HEADER_BYTES, self.size) is not None

    def page(self, kind: int, offset: int, size_bytes: int) -> Page | None:
        """The page of a kind at a place, of a length, or None if it is damaged."""
        if offset < layout.HEADER_BYTES or not 0 < size_bytes <= self.size - offset:
            self.reason = "a page outside the file"
            return None
        data = self._file.read(offset, size_bytes)
        try:
            payload, plain = layout.decode_page(
                data, kind, path=self.path, salt=self._salt, offset=offset, sealer=self._sealer
            )
        except TamperedError:
            self.reason = CHANGED
            return None
        except CorruptionError as error:
            self.reason = error.reason
            return None
        return Page(kind, offset, size_bytes, payload, plain)

    def page_at(self, offset: int, stop: int) -> Page | None:
        """The page that begins at a place and ends before ``stop``, or None."""
        size_bytes = self.length_at(offset, stop)
        if not size_bytes:
            self.reason = "no page header"
            return None
        return self.page(self._file.read(offset + 8, 1)[0], offset, size_bytes)

    def walk(self, start: int, stop: int) -> Iterator[Page | Gap]:
        """Pages and gaps from ``start`` to ``stop``, in order; a page begins at ``start``."""
        self._left_bytes = _PATIENCE * (stop - start) + 64 * limits.MIB
        while start < stop:
            found = self.page_at(start, stop)
            if found is None:
                reason = self.reason
                found = self._next(start + 1, stop)
                end = stop if found is None else found.offset
                yield Gap(start, end - start, reason)
            if found is None:
                return
            yield found
            start = found.offset + found.size_bytes

    def _next(self, start: int, stop: int) -> Page | None:
        """The first valid page that begins at or behind ``start``."""
        base = start + 8
        while base < stop and self._left_bytes > 0:
            window = self._file.read(base, min(_WINDOW_BYTES, stop - base))
            for match in self._beginning.finditer(window):
                offset = base + match.start() - 8
                self._left_bytes -= self.length_at(offset, stop)
                if self._left_bytes <= 0:
                    return None
                found = self.page_at(offset, stop)
                if found is not None:
                    return found
            if base + len(window) >= stop or len(window) <= _BEGINNING_BYTES:
                return None
            base += len(window) - _BEGINNING_BYTES
        return None

    def length_at(self, offset: int, stop: int) -> int:
        """Bytes of the page that begins at a place, by what it says of itself; 0 if it does not."""
        head = self._file.read(offset, layout.PAGE_HEADER_BYTES + _ZSTD_HEADER_BYTES)
        if len(head) <= layout.PAGE_HEADER_BYTES:
            return 0
        kind, codec, flags, raw_length = _FIELDS.unpack_from(head, 8)
        if not layout.DATA <= kind <= layout.ROOT or flags > layout.FLAG_PLAIN:
            return 0
        most_bytes = layout.PAGE_HEADER_BYTES + raw_length + (SEAL_BYTES if self._sealed else 0)
        if raw_length > limits.MAX_BLOCK_BYTES:
            return 0
        if codec == layout.STORED:
            end = offset + most_bytes
        elif codec == layout.ZSTD and self._sealed:
            end = self._end_by_checksum(offset, min(most_bytes, stop - offset))
        elif codec == layout.ZSTD:
            end = self._end_of_zstd(offset + layout.PAGE_HEADER_BYTES, head, raw_length, stop)
        else:
            return 0
        return end - offset if offset < end <= stop else 0

    def _end_by_checksum(self, offset: int, most_bytes: int) -> int:
        """Where the page ends whose checksum is at ``offset``; 0 if it fits no length."""
        data = self._file.read(offset, most_bytes)
        checksum, seed = data[:8], (self._salt + offset) & SEED_MASK
        # Most likely it ends where another one begins, and to try all lengths takes long.
        for match in _SEALED_BEGINNING.finditer(data, layout.PAGE_HEADER_BYTES + SEAL_BYTES):
            if xxh3_64(data[8 : match.start() - 8], seed=seed).digest() == checksum:
                return offset + match.start() - 8
        running = xxh3_64(seed=seed)
        for at in range(8, len(data)):
            running.update(data[at : at + 1])
            if running.digest() == checksum:
                return offset + at + 1
        self._left_bytes -= _SEARCH_COST * len(data)
        return 0

    def _end_of_zstd(self, at: int, head: bytes, raw_length: int, stop: int) -> int:
        """Where a zstd frame ends; 0 if there is none. See RFC 8878, 3.1.1.2."""
        frame = head[layout.PAGE_HEADER_BYTES :]
        try:
            if zstandard.frame_content_size(frame) != raw_length:
                return 0
            at += zstandard.frame_header_size(frame)
        except zstandard.ZstdError:
            return 0
        for _ in range(raw_length // _RAW_BLOCK_BYTES + 16):
            block = int.from_bytes(self._file.read(at, 3), "little")
            last, kind, size_bytes = block & 1, block >> 1 & 3, block >> 3
            at += 3 + (1 if kind == 1 else size_bytes)
            if kind == 3 or at > stop:
                return 0
            if last:
                return at
        return 0
