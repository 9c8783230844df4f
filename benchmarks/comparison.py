"""What walkv and its peers did on the same rows: medians, spreads, ratios and losses, in Markdown.

A ratio says how many times as good as a peer walkv is: as fast, or as small. Below 1 walkv loses.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.engines import SUBJECT
from benchmarks.engines.base import MIB
from benchmarks.figures import readable
from benchmarks.runner import Usage

LEGEND = (
    f"Median (min-max of the repetitions), and how many times as good {SUBJECT} is: as fast, or as "
    "small. Bold is where it loses."
)
_ABSENT = "-"
# Wider than any table, so that no cell is wrapped: Markdown has a line a row.
_COLUMNS = 1_000


@dataclass(frozen=True)
class Row:
    """One thing that was measured.

    Attributes:
        guarantee: what its writes survive; ``read`` where there are none.
        unit: ``us``, ``ms``, ``s`` or ``bytes``, of which less is better, or something a second
            (``steps/s``), of which more is.
        samples: a figure a repetition, by side.
    """

    name: str
    guarantee: str
    unit: str
    part: str
    samples: dict[str, list[float]]

    def median(self, side: str) -> float | None:
        """The median of a side, or None if it was not measured."""
        return statistics.median(self.samples[side]) if self.samples.get(side) else None

    def times_as_good(self, peer: str) -> float | None:
        """How many times as good as a peer walkv is, or None if either was not measured."""
        ours, theirs = self.median(SUBJECT), self.median(peer)
        if peer == SUBJECT or not ours or not theirs:
            return None
        return ours / theirs if self.unit.endswith("/s") else theirs / ours

    def to_json(self) -> dict[str, Any]:
        """Plain data, every sample included."""
        peers = [side for side in self.samples if side != SUBJECT]
        return {
            **asdict(self),
            "medians": {side: self.median(side) for side in self.samples},
            "times_as_good": {peer: self.times_as_good(peer) for peer in peers},
        }


def table(rows: Iterable[Row], sides: Sequence[str], ceilings: Sequence[str] = ()) -> str:
    """The rows, a column a side. Sides that are `ceilings` give no guarantee: no loss is marked."""
    return markdown(
        ["what", "guarantee", "unit"],
        sides,
        (
            [
                row.name,
                row.guarantee,
                row.unit,
                *(_cell(row, side, marked=side not in ceilings) for side in sides),
            ]
            for row in rows
        ),
    )


def losses(rows: Sequence[Row], peers: Sequence[str]) -> list[str]:
    """How many rows walkv loses to `peers`, and which, the worst first."""
    compared = [
        (ratio, row, peer)
        for row in rows
        for peer in peers
        if (ratio := row.times_as_good(peer)) is not None
    ]
    lost = sorted((each for each in compared if each[0] < 1), key=lambda each: each[0])
    return [
        f"{SUBJECT} loses {len(lost)} of {len(compared)} comparisons",
        *(f"{row.name}, {row.guarantee}: {ratio:.2f}x {peer}" for ratio, row, peer in lost),
    ]


def resources_table(found: Mapping[str, Mapping[str, Sequence[Usage]]]) -> str:
    """What the process of a part used (`benchmarks.resources.Resources`), by part and side."""
    sides = list(dict.fromkeys(side for by_side in found.values() for side in by_side))
    lines = [
        [part, *(_used(by_side.get(side, ())) for side in sides)] for part, by_side in found.items()
    ]
    legend = "Peak memory MiB / written MiB / syncs / on disk MiB, medians"
    return f"{legend}\n\n{markdown(['part'], sides, lines)}"


def markdown(words: Sequence[str], figures: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table: columns of words, then columns of figures, by their headings."""
    made = Table(box=box.MARKDOWN)
    for heading in words:
        made.add_column(heading, no_wrap=True)
    for heading in figures:
        made.add_column(heading, justify="right", no_wrap=True)
    for cells in lines:
        made.add_row(*cells)
    console = Console(width=_COLUMNS, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(made)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def _used(usages: Sequence[Usage]) -> str:
    if not usages:
        return _ABSENT
    shown = []
    for name in ("peak_memory_bytes", "written_bytes", "sync_count", "disk_bytes"):
        counts = [count for usage in usages if (count := usage[name]) is not None]
        if not counts:
            shown.append("not counted")
        elif name == "sync_count":
            shown.append(f"{statistics.median(counts):,.0f}")
        else:
            shown.append(readable(statistics.median(counts) / MIB))
    return " / ".join(shown)


def _cell(row: Row, side: str, *, marked: bool) -> str:
    median, ratio = row.median(side), row.times_as_good(side)
    if median is None:
        return _ABSENT
    samples = row.samples[side]
    low, high = readable(min(samples)), readable(max(samples))
    shown = readable(median) if low == high else f"{readable(median)} ({low}-{high})"
    if ratio is None:
        return shown
    return f"{shown} **{ratio:.2f}x**" if marked and ratio < 1 else f"{shown} {readable(ratio)}x"
