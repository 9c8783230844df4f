"""A store, or a part of it, into a file that says itself how it is to be read.

Invariants:
    1. Under its own name the file is whole: it is written as ``<name>.part`` and renamed when it
       ends and is durable.
    2. What an interrupted export has written stays true: another one goes on behind the last whole
       document, as of a later moment, and the file states both.
    3. Memory holds one item, and the buffer of the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

from walkv.engine.inspect import Progress
from walkv.engine.store import Store
from walkv.engine.vfs import OsFileSystem
from walkv.namespaces.registry import Entry
from walkv.ops.moving import framing
from walkv.ops.moving.collecting import ENTRIES, RECORDS, Collection, Selection
from walkv.ops.moving.documents import (
    entry_as_dict,
    item_as_dict,
    read_header,
    read_item,
    read_segment,
)
from walkv.ops.moving.framing import FORMATS, Checksum, Cut, FileReader
from walkv.ops.moving.items import Item, Tally, is_counted, place
from walkv.ops.moving.moment import Moment

PART: Final = ".part"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ExportReport:
    """What an export has written.

    Attributes:
        path: the file; None for a file object.
        sequences: of each moment that the file is of: one, unless the export was interrupted.
        counts: items by namespace; under "" the entries that are of none.
        masked: secret fields that are masked, by namespace.
        left_out: namespaces that are not in the file, and why.
        resumed_count: items that were in the file already.
    """

    path: str | None
    kind: str
    format: str
    sequences: tuple[int, ...]
    counts: dict[str, int]
    masked: dict[str, tuple[str, ...]]
    left_out: dict[str, str]
    resumed_count: int
    size_bytes: int


@dataclass
class _Written:
    """What is in the file so far."""

    checksum: Checksum = field(default_factory=Checksum)
    size_bytes: int = 0
    sequences: list[int] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    last: bytes = b""
    ended: bool = False

    def count(self, item: Item, known: dict[str, Entry]) -> None:
        if is_counted(item):
            self.tallies.setdefault(item.namespace, Tally()).add(item)
        entry = known.get(item.namespace)
        self.last = place(item, () if entry is None else entry.key)

    @property
    def item_count(self) -> int:
        return sum(tally.count for tally in self.tallies.values())


def export(
    store: Store,
    out: str | os.PathLike[str] | BinaryIO,
    *,
    format: str = framing.JSONL,
    kind: str = RECORDS,
    namespaces: Sequence[str] | None = None,
    prefix: bytes | None = None,
    secrets: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write what is in a store to a file, as of one moment.

    Args:
        out: a path, which must not be taken yet; or a binary file, which is written to and left
            open.
        format: ``"jsonl"``, lines of JSON, or ``"msgpack"``.
        kind: ``"records"``: every record with its fields, checkpoints with their states; or
            ``"entries"``: keys and values as they are, from which a store is made that is the same.
        namespaces: only these; with ``prefix``, and those keys.
        prefix: only keys that begin with it, and are of no namespace.
        secrets: show secret fields; else they are masked, and entries of them are refused.
        resume: go on with ``<out>.part``, which an interrupted export of the same store has left.
        progress: called with the items written so far, and about how many there are.
    Raises:
        FileExistsError: there is such a file, or an interrupted export that is not to go on.
        FileNotFoundError: there is none that could go on.
        ImportSourceError: what is there to go on with is no export, or one of something else.
        LookupError, ValueError: there is no such namespace, or not like this.
        CodecError: a record cannot be read.
    Cost: reads the keys twice and the values once. Memory: an item at a time.
    Durability: the file and its name survive power loss on return; not so a file object's.
    """
    if format not in FORMATS or kind not in (RECORDS, ENTRIES):
        raise ValueError(
            f"an export is of kind {RECORDS!r} or {ENTRIES!r} and in format "
            f"{' or '.join(map(repr, FORMATS))}, not {kind!r} in {format!r}"
        )
    names = None if namespaces is None else tuple(sorted(set(namespaces)))
    selection = Selection(kind, names, prefix, secrets)
    with Moment(store.engine) as moment:
        collection = Collection(moment, selection)
        work = _Export(moment, collection, selection, format, progress)
        if not isinstance(out, str | os.PathLike):
            if resume:
                raise ValueError("only an export to a path can go on")
            work.begin(out)
            work.run(out)
            return work.report(None)
        path = os.fspath(out)
        _write_file(work, path, resume)
        return work.report(path)


def _write_file(work: _Export, path: str, resume: bool) -> None:
    part = path + PART
    if os.path.lexists(path):
        raise FileExistsError(17, "there is such a file; delete it, or take another name", path)
    if resume:
        with open(part, "r+b") as file:
            work.go_on(file, part)
            _finish(work, file)
    else:
        try:
            with open(part, "xb", opener=_private if work.has_secrets else None) as file:
                work.begin(file)
                _finish(work, file)
        except FileExistsError:
            raise FileExistsError(
                17, "an interrupted export is there; resume it, or delete it", part
            ) from None
    if os.path.lexists(path):
        raise FileExistsError(17, "there is such a file now; delete it, and resume", path)
    os.rename(part, path)
    OsFileSystem().sync_directory(os.path.dirname(os.path.abspath(path)))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _finish(work: _Export, file: BinaryIO) -> None:
    if not work.written.ended:
        work.run(file)
    file.flush()
    os.fsync(file.fileno())


class _Export:
    def __init__(
        self,
        moment: Moment,
        collection: Collection,
        selection: Selection,
        form: str,
        progress: Progress | None,
    ) -> None:
        self._moment = moment
        self._collection = collection
        self._selection = selection
        self._form = form
        self._progress = progress
        self._header = self._describe()
        self._total = sum(self._header["counts"].values())
        self._resumed_count = 0
        self.written = _Written()

    @property
    def has_secrets(self) -> bool:
        """Whether secret fields are shown in it."""
        known = self._collection.known.values()
        return self._selection.secrets and any(entry.secrets for entry in known)

    # -- the file ----------------------------------------------------------------------------------

    def begin(self, file: BinaryIO) -> None:
        """Write the header."""
        self._put(file, self._header)
        self.written.sequences.append(self._moment.sequence)

    def go_on(self, file: BinaryIO, path: str) -> None:
        """Read what is there, cut off what is not whole, and state the new moment."""
        written = _read_part(file, path, self._form, self._header)
        file.seek(0 if written is None else written.size_bytes)
        if written is None:  # it was killed before its header was there
            file.truncate()
            self.begin(file)
            return
        self.written = written
        self._resumed_count = written.item_count
        if not written.ended:
            file.truncate()
            self._put(file, {"segment": {**self._now(), "namespaces": self._schemas()}})
            written.sequences.append(self._moment.sequence)

    def run(self, file: BinaryIO) -> None:
        """Write the items and the end."""
        written, known = self.written, self._collection.known
        for item in self._collection.read(written.last):
            self._put(file, item_as_dict(item, known))
            written.count(item, known)
            if self._progress is not None:
                done = written.item_count
                self._progress(done, max(done, self._total))
        tallies = {name: tally.as_dict() for name, tally in sorted(written.tallies.items())}
        end = {"counts": tallies, "xxh3_128": written.checksum.hex}
        self._put(file, {"end": end})

    def _put(self, file: BinaryIO, document: Any) -> None:
        data = framing.encode(document, self._form)
        file.write(data)
        self.written.checksum.add(data)
        self.written.size_bytes += len(data)

    # -- what it says of itself --------------------------------------------------------------------

    def _now(self) -> dict[str, Any]:
        microseconds = self._moment.wall_time_ns() // 1000
        time = _EPOCH + timedelta(microseconds=microseconds)
        return {"time": time.isoformat(), "sequence": self._moment.sequence}

    def _schemas(self) -> dict[str, Any]:
        return {
            name: entry_as_dict(entry, masked=not self._selection.secrets)
            for name, entry in self._collection.known.items()
        }

    def _describe(self) -> dict[str, Any]:
        counts: dict[str, int] = {}
        selection = self._selection
        if selection.kind == RECORDS:
            counts = {name: self._collection.count(name) for name in self._collection.known}
            entries = self._collection.count(None)
        else:
            entries = sum(
                self._moment.count(start=each.start, stop=each.stop)
                for each in self._collection.ranges()
            )
        if entries:
            counts[""] = entries
        return {
            framing.MARK: framing.VERSION,
            "kind": selection.kind,
            **self._now(),
            "store": self._moment.store_id,
            "selection": {
                "namespaces": None if selection.namespaces is None else list(selection.namespaces),
                "prefix": selection.prefix,
                "secrets": selection.secrets,
            },
            "counts": counts,
            "left_out": self._collection.left_out,
            "namespaces": self._schemas(),
        }

    def report(self, path: str | None) -> ExportReport:
        """What was done."""
        known = self._collection.known
        shown = self._selection.secrets
        return ExportReport(
            path,
            self._selection.kind,
            self._form,
            tuple(self.written.sequences),
            {name: tally.count for name, tally in sorted(self.written.tallies.items())},
            {} if shown else {name: tuple(e.secrets) for name, e in known.items() if e.secrets},
            self._collection.left_out,
            self._resumed_count,
            self.written.size_bytes,
        )


def _read_part(file: BinaryIO, path: str, form: str, wanted: dict[str, Any]) -> _Written | None:
    """What an interrupted export has written; None if not even a header.

    Raises:
        ImportSourceError: it is no export, or one of another store or of something else.
    """
    if not os.fstat(file.fileno()).st_size:
        return None
    reader = FileReader(file, path)
    if reader.form != form:
        raise reader.wrong(None, f"what is there is {reader.form}, not {form}")
    written = _Written()
    known: dict[str, Entry] = {}
    try:
        for document in reader.documents():
            value = document.value
            if not document.start:
                header = read_header(reader, value)
                for name in ("store", "kind", "selection"):
                    if value.get(name) != wanted[name]:
                        raise reader.wrong(
                            0, f"this is an export of something else: its {name} is another"
                        )
                known = dict(header.namespaces)
                written.sequences.append(header.sequence)
            elif written.ended or not isinstance(value, dict):
                raise reader.wrong(document.start, "this is no export that could go on")
            elif "segment" in value:
                sequence, namespaces = read_segment(reader, document)
                known |= namespaces
                written.sequences.append(sequence)
            elif "end" in value:
                written.ended = True
            else:
                written.count(read_item(reader, document, known), known)
            written.checksum.add(document.data)
            written.size_bytes = document.stop
    except Cut:
        pass
    return written if written.sequences else None
