"""Tables in windows of any width."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from walkv.cli import output, tables, values
from walkv.cli.tables import Column

COLUMNS = (
    Column("name"),
    Column("count", "how many", numeric=True),
    Column("size", shown=values.size, numeric=True, spare=True),
    Column("text", long=True),
    Column("nothing"),
)
ROWS = [
    {"name": "n" * 20, "count": 1_234_567, "size": 5_000, "text": "word " * 100},
    {"name": "[b]:x:", "count": 7, "size": 1, "text": "z"},
]

Shown = Callable[[int], str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """The table, and what is said of it, in a window."""
    monkeypatch.setattr(output, "is_terminal", lambda stream: stream is sys.stdout)

    def shown(columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        output.console().print(tables.table(COLUMNS, ROWS))
        found = capsys.readouterr()
        assert max(map(len, found.out.splitlines())) <= columns
        return found.out + found.err

    return shown


@pytest.mark.parametrize("columns", [120, 80, 60, 50, 40, 30, 25])
def test_figures_are_whole_or_not_there(shown: Shown, columns: int) -> None:
    text = shown(columns)
    for title, figures in (("how", ("1,234,567", " 7")), ("size", ("4.9 KiB", "1 byte"))):
        left_out = f"too narrow for: {title}" in text or f", {title}" in text
        assert [figure in text for figure in figures] == [not left_out] * 2
    assert "nothing" not in text
    assert "[b]:x:" in text


def test_what_gives_way_first(shown: Shown) -> None:
    wide, narrow, small, least = map(shown, (80, 50, 41, 20))
    assert "n" * 20 in wide
    assert "…" in wide, "long text is cut first"
    assert "n" * 20 not in narrow
    assert "how many" in wide
    assert "too narrow for: size; --json has all" in small
    assert "too narrow for: how many, size, text; --json has all" in least


def test_where_there_is_no_window_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    columns = (Column("name"), Column("count"))
    rows: list[Any] = [{"name": "x" * 900, "count": "[b]:smile:[/b]"}]
    output.console().print(tables.table(columns, rows))
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["name", "count"]
    assert second.split() == list(rows[0].values())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00051, "0.51 ms"),
        (0.0125, "12.5 ms"),
        (3.25, "3.2 s"),
        (59, "59 s"),
        (60, "1 min"),
        (75, "1 min 15 s"),
        (7 * 86_400, "7 d"),
        (100_000.4, "1 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1_000, "1,000 bytes"),
        (1_024, "1 KiB"),
        (16 << 20, "16 MiB"),
        (3 << 29, "1.5 GiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert output.size(size_bytes) == text
