"""Export files of walkv."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from walkv.namespaces.registry import Entry
from walkv.namespaces.schema import MASK
from walkv.ops.moving.collecting import ENTRIES
from walkv.ops.moving.documents import read_end, read_header, read_item, read_segment
from walkv.ops.moving.framing import Checksum, Document, FileReader, whole_documents
from walkv.ops.moving.items import Item, Problems, Tally, is_counted


class Exported:
    """A file that ``export`` has written.

    Args:
        without_masked: take the records without the fields that are masked.

    Attributes:
        masked: secret fields of namespaces in which one was masked; known once it was checked.
    """

    kind = "walkv"

    def __init__(self, file: BinaryIO, path: str, *, without_masked: bool) -> None:
        self.path = path
        self._reader = FileReader(file, path)
        first = next(whole_documents(self._reader), None)
        header = read_header(self._reader, None if first is None else first.value)
        self.raw = header.kind == ENTRIES
        self.item_count = header.item_count
        self.masked: dict[str, tuple[str, ...]] = {}
        self.namespaces = dict(header.namespaces)
        self._may_be_masked = header.masked
        self._without_masked = without_masked

    def check(self) -> None:
        """See whether the file is whole, and whether anything in it is masked.

        Raises:
            ImportSourceError: it was cut, or is damaged.
        Cost: reads the file.
        """
        checksum = Checksum()
        tallies: dict[str, Tally] = {}
        ended, stop = False, 0
        for document, item in self._documents():
            if ended:
                raise self._reader.wrong(document.start, "there is more behind its end")
            if item is not None:
                self._note_masked(item)
                if is_counted(item):
                    tallies.setdefault(item.namespace, Tally()).add(item)
            elif _is(document, "segment"):
                self.namespaces |= read_segment(self._reader, document)[1]
            elif _is(document, "end"):
                counts, found = read_end(self._reader, document)
                stated = {name: tally.as_dict() for name, tally in tallies.items()}
                if found != checksum.hex or counts != stated:
                    raise self._reader.wrong(
                        document.start, "its checksums do not match: it is damaged"
                    )
                ended = True
            checksum.add(document.data)
            stop = document.stop
        if not ended:
            raise self._reader.wrong(
                stop, "the file has no end: it was cut, or its export was interrupted"
            )
        self.item_count = sum(tally.count for tally in tallies.values())
        self.namespaces = self._shown(self.namespaces)

    def _documents(self) -> Iterator[tuple[Document, Item | None]]:
        """The documents, and the items in them."""
        known: dict[str, Entry] = {}
        for document in whole_documents(self._reader):
            if not document.start:
                known = dict(read_header(self._reader, document.value).namespaces)
                yield document, None
            elif _is(document, "segment"):
                known |= read_segment(self._reader, document)[1]
                yield document, None
            elif _is(document, "end"):
                yield document, None
            else:
                yield document, read_item(self._reader, document, known)

    def _note_masked(self, item: Item) -> None:
        hidden = self._may_be_masked.get(item.namespace, ())
        if item.namespace not in self.masked and any(
            item.fields.get(name) == MASK for name in hidden
        ):
            self.masked[item.namespace] = hidden

    @property
    def _without(self) -> dict[str, tuple[str, ...]]:
        return self.masked if self._without_masked else {}

    def _shown(self, known: dict[str, Entry]) -> dict[str, Entry]:
        """What is registered, without the fields that are left out."""
        made = dict(known)
        for name, hidden in self._without.items():
            layouts = [
                each._replace(names=tuple(n for n in each.names if n not in hidden))
                for each in known[name].layouts
            ]
            made[name] = known[name]._replace(layouts=layouts)
        return made

    def items(self, problems: Problems) -> Iterator[Item]:
        """The items of a file that was checked."""
        for _, item in self._documents():
            if item is None:
                continue
            if hidden := self._without.get(item.namespace):
                shown = {name: each for name, each in item.fields.items() if name not in hidden}
                item = item._replace(fields=shown)
            yield item


def _is(document: Document, what: str) -> bool:
    return isinstance(document.value, dict) and what in document.value
