"""One snapshot of a damaged store: what of it can be read, and what cannot.

A page that is damaged costs what is in it and nothing else: with the index page of its partition
the others are found as ever; without it, or without the root, they are walked over.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from walkv.engine.ranges import NO_RANGES, RangeSet
from walkv.engine.snapshot import blocks, layout
from walkv.engine.snapshot.blocks import Block, Index, Root
from walkv.ops.repairing.pages import Gap, Page, PageFile
from walkv.ops.repairing.report import Damage

Entry = tuple[bytes, Any, int]
"""Key, item as in ``engine.batch``, sequence."""


@dataclass
class Survey:
    """What can be had of one snapshot.

    Attributes:
        number: its id.
        path: for reports.
        pages: where its valid data pages are: offset and length of each, in turn.
        ranges: the deleted ranges that hide entries of older snapshots.
        saved_count: entries in those pages.
        expected_count: entries it was written with, or None.
        first_sequence, last_sequence: the lowest and highest in those pages; 0 if there are none.
        damages: what is wrong with it; ``Damage.lost`` says if entries or ranges are gone.
    """

    number: int
    path: str
    file: PageFile
    pages: array[int] = field(default_factory=lambda: array("Q"))
    ranges: RangeSet = NO_RANGES
    saved_count: int = 0
    expected_count: int | None = None
    first_sequence: int = 0
    last_sequence: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing of it is lost."""
        return not any(damage.lost for damage in self.damages)

    def entries(self) -> Iterator[Entry]:
        """Its entries in key order."""
        places = iter(self.pages)
        for offset, size_bytes in zip(places, places, strict=True):
            page = self.file.page(layout.DATA, offset, size_bytes)
            block = None if page is None else _block(page)
            if block is None:
                reason = "it could be read once, and not again: the medium is failing"
                self.damages.append(Damage(self.path, "data page", reason, offset, size_bytes))
                continue
            yield from zip(block.keys, block.items, block.sequences(), strict=True)


def survey(number: int, path: str, file: PageFile, progress: Callable[[int], None]) -> Survey:
    """Read every page of a snapshot whose salt is known.

    Args:
        path: for the report.
        progress: called with the bytes read since the last call.
    Cost: one pass over the file; memory of 16 bytes a page.
    """
    found = Survey(number, path, file)
    _Surveyor(found, progress).run()
    return found


class _Surveyor:
    def __init__(self, found: Survey, progress: Callable[[int], None]) -> None:
        self._found = found
        self._file = found.file
        self._progress = progress
        self._last_key: bytes | None = None

    def run(self) -> None:
        file, found = self._file, self._found
        footer = file.footer()
        if footer is None:
            self._damage(
                "footer",
                "the footer is damaged or missing",
                max(file.size - layout.FOOTER_BYTES, layout.HEADER_BYTES),
                min(layout.FOOTER_BYTES, max(file.size - layout.HEADER_BYTES, 0)),
                lost=False,
            )
            self._walk_all(file.size)
            return
        found.expected_count = footer.entry_count
        page = file.page(layout.ROOT, footer.root_offset, footer.root_length)
        root = None if page is None else _root(page)
        if root is None or not _is_inside(root, footer.root_offset):
            self._damage(
                "root page", file.reason, footer.root_offset, footer.root_length, lost=False
            )
            self._walk_all(footer.root_offset)
            return
        self._take_root(root)
        for partition in range(len(root.offsets)):
            self._partition(root, partition)

    def _damage(
        self,
        part: str,
        reason: str,
        offset: int,
        size_bytes: int,
        *,
        lost: bool = True,
        first_key: bytes | None = None,
        stop_key: bytes | None = None,
    ) -> None:
        self._found.damages.append(
            Damage(
                self._found.path,
                part,
                reason,
                offset,
                size_bytes,
                lost,
                first_key=first_key,
                stop_key=stop_key,
            )
        )

    # -- with a root -----------------------------------------------------------------------------

    def _take_root(self, root: Root) -> None:
        self._found.ranges = root.ranges
        self._found.expected_count = sum(root.entry_counts)

    def _partition(self, root: Root, partition: int) -> None:
        offset, length = root.offsets[partition], root.data_lengths[partition]
        page = self._file.page(layout.INDEX, offset + length, root.index_lengths[partition])
        index = None if page is None else _index(page)
        stop_key = root.last_keys[partition] + b"\0"
        if index is None or (index.starts[0], index.starts[-1]) != (0, length):
            self._damage(
                "index page",
                f"{self._file.reason}; its data pages were looked for one by one",
                offset + length,
                root.index_lengths[partition],
                lost=False,
            )
            before, self._last_key = self._last_key, None
            self._walk(offset, offset + length, root.first_keys[partition], stop_key)
            self._last_key = self._last_key or before
            return
        bounds = [*index.first_keys, stop_key]
        for at, (start, stop) in enumerate(pairwise(index.starts)):
            data = self._file.page(layout.DATA, offset + start, stop - start)
            if data is None or not self._take(data):
                self._damage(
                    "data page",
                    self._file.reason,
                    offset + start,
                    stop - start,
                    first_key=bounds[at],
                    stop_key=bounds[at + 1],
                )
            self._progress(stop - start)

    # -- without ---------------------------------------------------------------------------------

    def _walk_all(self, stop: int) -> None:
        root = self._walk(layout.HEADER_BYTES, stop, None, None)
        found = self._found
        if root is not None:
            self._take_root(root)
        else:
            self._damage(
                "deleted ranges",
                "they were in the root page: what they hid in older snapshots may be back",
                0,
                0,
            )
        if root is None and found.expected_count is None:
            reason = "the file has no end: pages may be missing behind what is there"
            key = None if self._last_key is None else self._last_key + b"\0"
            self._damage("data page", reason, stop, 0, first_key=key)
        gone = [damage for damage in found.damages if damage.part == "data page"]
        if found.expected_count == found.saved_count and gone:
            # Every entry is there: what could not be read was none of its data pages.
            found.damages = [
                replace(damage, part="pages", lost=False) if damage in gone else damage
                for damage in found.damages
            ]

    def _walk(
        self, start: int, stop: int, first_key: bytes | None, stop_key: bytes | None
    ) -> Root | None:
        """Take the data pages of a stretch; the root, if it is among them."""
        gap: Gap | None = None
        root = None
        self._low_key = first_key
        for each in self._file.walk(start, stop):
            self._progress(each.size_bytes)
            if isinstance(each, Gap):
                gap = each
                continue
            if each.kind == layout.ROOT:
                root = _root(each)
            if each.kind != layout.DATA:
                continue
            block = _block(each)
            if gap is not None and block is not None:
                self._gap(gap, block.keys[0])
                gap = None
            if not self._take(each):
                gap = Gap(each.offset, each.size_bytes, self._file.reason)
        at_end = self._file.size - layout.FOOTER_BYTES
        only_footer = gap is not None and root is not None and gap.offset >= at_end
        if gap is not None and not only_footer:
            self._gap(gap, stop_key)
        return root

    def _gap(self, gap: Gap, stop_key: bytes | None) -> None:
        first_key = self._low_key if self._last_key is None else self._last_key + b"\0"
        self._damage(
            "data page",
            gap.reason,
            gap.offset,
            gap.size_bytes,
            first_key=first_key,
            stop_key=stop_key,
        )

    # --------------------------------------------------------------------------------------------

    def _take(self, page: Page) -> bool:
        """Note a valid data page; False if its entries are not what they should be."""
        block = _block(page)
        if block is None or (self._last_key is not None and block.keys[0] <= self._last_key):
            self._file.reason = "a valid page whose entries do not decode, or are out of order"
            return False
        found = self._found
        sequences = block.sequences()
        low, high = min(sequences), max(sequences)
        found.first_sequence = min(found.first_sequence or low, low)
        found.last_sequence = max(found.last_sequence, high)
        found.saved_count += len(block.keys)
        found.pages.extend((page.offset, page.size_bytes))
        self._last_key = block.keys[-1]
        return True


def _block(page: Page) -> Block | None:
    try:
        return blocks.decode_data(page.payload, page.plain)
    except (ValueError, TypeError, IndexError):
        return None


def _index(page: Page) -> Index | None:
    try:
        return blocks.decode_index(page.payload)
    except (ValueError, TypeError, IndexError):
        return None


def _root(page: Page) -> Root | None:
    try:
        return blocks.decode_root(page.payload)
    except (ValueError, TypeError, IndexError):
        return None


def _is_inside(root: Root, stop: int) -> bool:
    """Whether the partitions of a root lie in the file, one behind the other."""
    end = layout.HEADER_BYTES
    columns = zip(root.offsets, root.data_lengths, root.index_lengths, strict=True)
    for offset, data_length, index_length in columns:
        if offset < end or min(data_length, index_length) <= 0:
            return False
        end = offset + data_length + index_length
    return end <= stop
