"""What a repair found, what it could not save, and what it made: for people and for programs."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import Any, Final

CHANGED: Final = (
    "it was changed: the checksum is right, and it was not sealed there with the store's key"
)
"""The reason of a damage that somebody has made."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One stretch of one file that is not what was written, or one file that is not there.

    Attributes:
        path: the file, from the store's directory on.
        part: what the bytes were: "frames", "segment", "torn tail", "data page", "index page",
            "root page", "deleted ranges", "snapshot", "footer", "header" or "manifest".
        reason: what is wrong, in a few words.
        offset_bytes, size_bytes: where in the file, and how much of it.
        lost: something that the store held may be missing from the repaired one, or be there in an
            older version. Not so where the bytes held nothing of their own, where it was saved
            from elsewhere, and for a torn tail, which was never acknowledged as durable.
        first_sequence, last_sequence: the operations that are lost are among these; None where
            that is not known.
        first_key, stop_key: what is lost has keys with ``first_key <= key < stop_key``; None where
            there is no bound, or it is not known.
    """

    path: str
    part: str
    reason: str
    offset_bytes: int = 0
    size_bytes: int = 0
    lost: bool = True
    first_sequence: int | None = None
    last_sequence: int | None = None
    first_key: bytes | None = None
    stop_key: bytes | None = None

    def __str__(self) -> str:
        where = f"{self.path}, {self.part}"
        if self.size_bytes:
            last = self.offset_bytes + self.size_bytes - 1
            where += f", bytes {self.offset_bytes} to {last}"
        text = f"{where}: {self.reason}"
        if self.lost and self.first_sequence is not None:
            last_sequence = "?" if self.last_sequence is None else str(self.last_sequence)
            text += f" (sequences {self.first_sequence} to {last_sequence})"
        return text


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file of the damaged store.

    Attributes:
        path: from the store's directory on.
        size_bytes: of the file.
        state: "whole", "damaged", "missing" or "not used".
        saved_count: entries of a snapshot, or operations of a segment, that could be read.
        expected_count: how many the file is known to have had; None where that is not known.
    """

    path: str
    size_bytes: int
    state: str
    saved_count: int = 0
    expected_count: int | None = None


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What ``repair`` found and did.

    Attributes:
        source, target: the two directories.
        files: every file of the damaged store that was looked at or is missing.
        damages: every damage; see ``Damage.lost`` for whether it cost anything.
        warnings: what could not be made sure of, such as what was inferred of a lost registry.
        batch_count, operation_count: committed batches that were read from the log.
        entry_count: entries of the repaired store, expired ones that are still there included.
        last_sequence: the highest sequence that is known to have been given.
        mended: index entries and counts of namespaces that disagreed with what was saved, and were
            made to agree, a line each.
        disagreements: those that could not be, a line each.
    """

    source: str
    target: str
    files: tuple[FileReport, ...] = ()
    damages: tuple[Damage, ...] = ()
    warnings: tuple[str, ...] = ()
    batch_count: int = 0
    operation_count: int = 0
    entry_count: int = 0
    last_sequence: int = 0
    mended: tuple[str, ...] = ()
    disagreements: tuple[str, ...] = ()

    @property
    def losses(self) -> tuple[Damage, ...]:
        """The damages that cost something."""
        return tuple(damage for damage in self.damages if damage.lost)

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.losses

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Keys are strings, or ``{"base64": ...}`` where they are not UTF-8."""
        fields = asdict(self) | {"complete": self.complete}
        for damage in fields["damages"]:
            for name in ("first_key", "stop_key"):
                damage[name] = _text(damage[name])
        return fields

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.entry_count:,} entries saved into {self.target}, "
            f"{self.batch_count:,} batches of them from the log"
        ]
        if self.complete:
            lines.append("nothing is known to be missing")
        lines += [f"lost: {damage}" for damage in self.losses]
        lines += [f"damaged, nothing lost: {each}" for each in self.damages if not each.lost]
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"mended: {line}" for line in self.mended]
        lines += [f"disagree: {line}" for line in self.disagreements]
        return "\n".join(lines)


def _text(key: bytes | None) -> str | dict[str, str] | None:
    if key is None:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(key).decode()}
