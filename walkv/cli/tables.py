"""Tables: their columns, and what gives way where the window is too narrow for all of them.

Invariants:
    1. A figure is shown whole or not at all; text is cut, and says so by an ellipsis.
    2. A column with nothing in it is left out.
    3. Where there is no window a table is as wide as its cells.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from walkv.cli import output, values

Record = Mapping[str, Any]

_GAP_COLUMNS: Final = 2
_LEAST_TEXT_COLUMNS: Final = 10
"""Text is not cut to less than this; a column goes first."""

_STYLES: Final = {
    **dict.fromkeys(("active", "completed", "success"), "green"),
    **dict.fromkeys(("running", "in_progress", "paused"), "yellow"),
    **dict.fromkeys(("failed", "expired"), "red"),
    **dict.fromkeys(("cancelled", "deleted", "pending"), "dim"),
}


class Column(NamedTuple):
    """A column.

    Attributes:
        field: of the record.
        heading: the field's name if there is none.
        shown: makes the cell of the field's value.
        long: whether it is cut before others are.
        numeric: whether it is set right, and never cut.
        whole: whether it is never cut, though it is text.
        spare: whether it is left out before others are.
    """

    field: str
    heading: str = ""
    shown: Callable[[Any], str] = values.cell
    long: bool = False
    numeric: bool = False
    whole: bool = False
    spare: bool = False

    @property
    def title(self) -> str:
        return self.heading or self.field


class _Filled(NamedTuple):
    """A column with its cells, and how many columns of the window it takes."""

    column: Column
    cells: list[Text]
    natural: int
    least: int


def table(columns: Iterable[Column], records: Sequence[Record]) -> Table:
    """A table of records, no wider than the window; says on stderr what there was no room for."""
    window = output.is_terminal(sys.stdout)
    made = Table(
        box=box.SIMPLE_HEAD if window else None,
        padding=(0, 1 if window else _GAP_COLUMNS, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    filled = [_filled(column, records, window) for column in columns]
    filled = [each for each in filled if any(each.cells)]
    widths = [each.natural for each in filled]
    if window:
        available = output.console().width
        filled, left_out = _chosen(filled, available)
        widths = _widths(filled, available)
        if left_out:
            output.note(f"the window is too narrow for: {', '.join(left_out)}; --json has all")
    for each, width in zip(filled, widths, strict=True):
        made.add_column(
            each.column.title,
            justify="right" if each.column.numeric else "left",
            vertical="bottom",
            overflow="ellipsis",
            width=width if window else None,
            no_wrap=not window,
        )
    for row in zip(*(each.cells for each in filled), strict=True):
        made.add_row(*row)
    return made


def _filled(column: Column, records: Sequence[Record], window: bool) -> _Filled:
    cells = [_cell(column, record.get(column.field), window) for record in records]
    widest = max((_width(cell.plain) for cell in cells), default=0)
    # A heading may be folded between its words.
    least = max(widest, *map(cell_len, column.title.split()))
    if not (column.numeric or column.whole):
        least = min(least, _LEAST_TEXT_COLUMNS)
    return _Filled(column, cells, max(widest, cell_len(column.title)), least)


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _cell(column: Column, value: Any, window: bool) -> Text:
    style = _STYLES.get(value, "") if column.field == "status" else ""
    text = Text(column.shown(value), style=style, no_wrap=True, overflow="ellipsis")
    if not window and column.long:
        text.truncate(values.LONGEST_CELL, overflow="ellipsis")
    return text


def _chosen(filled: list[_Filled], available: int) -> tuple[list[_Filled], list[str]]:
    """The columns that there is room for, and the titles of the others."""
    chosen = filled
    # The last goes first; the very first one stays, which says what a row is about.
    order = sorted(filled[1:], key=lambda each: each.column.spare)
    while order and _total(chosen, [each.least for each in chosen]) > available:
        gone = order.pop()
        chosen = [each for each in chosen if each is not gone]
    return chosen, [each.column.title for each in filled if each not in chosen]


def _widths(filled: list[_Filled], available: int) -> list[int]:
    """How wide each column is: headings are folded first, then long text is cut, then other text;
    of each kind the widest."""
    widths = [min(each.natural, available) for each in filled]
    figures = [n for n, each in enumerate(filled) if each.column.numeric or each.column.whole]
    long = [n for n, each in enumerate(filled) if each.column.long]
    for soft in (figures, long, range(len(filled))):
        while _total(filled, widths) > available:
            wide = [n for n in soft if widths[n] > filled[n].least]
            if not wide:
                break
            widths[max(wide, key=lambda n: widths[n])] -= 1
    return widths


def _total(filled: list[_Filled], widths: list[int]) -> int:
    return sum(widths) + _GAP_COLUMNS * (len(filled) - 1)
