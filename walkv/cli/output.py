"""What a person and a program see: results on stdout, everything about them on stderr.

Invariants:
    1. stdout holds the result and nothing else, so that it can be piped.
    2. Colour, boxes and cutting to the width of the window are for terminals only.
    3. Text from a store or a path is never read as markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

import click
from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from walkv import WalkvError

_PLAIN_WIDTH: Final = 1_000
"""Columns where there is no window: wide enough that no table is ever folded."""

_BUFFER_BYTES: Final = 64 * 1024
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich calls this where it handles the BrokenPipeError; ``app`` ends it quietly


def is_terminal(stream: TextIO | None) -> bool:
    # Not rich's idea of a terminal, which FORCE_COLOR changes. None: it was closed from the start.
    if stream is None:
        return False
    with suppress(ValueError):  # closed
        return stream.isatty()
    return False


def console(stderr: bool = False) -> Console:
    """A console on the streams as they are now; tests replace them."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if is_terminal(stream) else _PLAIN_WIDTH
    return _Console(
        file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=True
    )


def size(size_bytes: int) -> str:
    """``1.2 MiB``"""
    if size_bytes == 1:
        return "1 byte"
    unit, suffix = filesize.pick_unit_and_suffix(size_bytes, list(_UNITS), 1024)
    return f"{_figure(size_bytes / unit, 1)} {suffix}"


def duration(seconds: float) -> str:
    """``1.2 ms``, ``3.4 s`` or ``3 d 4 h``: at most the two largest units of a time span."""
    if seconds < 1:
        return f"{_figure(seconds * 1e3, 2)} ms" if seconds > 0 else "0 s"
    if seconds < 60:
        return f"{_figure(seconds, 1)} s"
    parts: list[str] = []
    left = round(seconds)
    for unit, unit_seconds in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, unit_seconds)
        if count:
            parts.append(f"{count:,} {unit}")
    return " ".join(parts[:2])


def _figure(value: float, decimals: int) -> str:
    """Rounded, without zeros after the point."""
    return f"{value:,.{decimals}f}".rstrip("0").rstrip(".")


def print_facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and what they are, one a line."""
    width = max(len(name) for name, _ in pairs) + 2
    for name, fact in pairs:
        console().print(Text.assemble((name.ljust(width), "bold"), fact))


def json_bytes(value: Any) -> bytes:
    """JSON on one line; ASCII, so that neither the locale nor an odd path matters."""
    return json.dumps(value).encode()


def emit_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    click.echo(json_bytes(value))


def emit_lines(lines: Iterable[bytes]) -> None:
    """Lines to stdout, many at a time; those before damage are written before its error is raised.

    After Ctrl-C nothing more is written: whoever should read it may not be reading.
    """
    waiting: list[bytes] = []
    waiting_bytes = 0
    try:
        for line in lines:
            waiting.append(line)
            waiting_bytes += len(line) + 1
            if waiting_bytes >= _BUFFER_BYTES:
                block, waiting, waiting_bytes = waiting, [], 0
                _echo(block)
    except WalkvError:
        _echo(waiting)
        raise
    _echo(waiting)


def _echo(lines: list[bytes]) -> None:
    if lines:
        click.echo(b"\n".join(lines))


_bars: Final[list[Progress]] = []
"""The bar that is shown, if there is one."""


def note(text: str) -> None:
    """A line on stderr that is not an error; above the bar, if there is one."""
    if _bars:
        _bars[-1].console.print(Text(f"walkv: {text}"), soft_wrap=False)
    else:
        click.echo(f"walkv: {text}", err=True)


@contextmanager
def bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A callback for what is done and how much there is; shows a bar on a terminal, else None."""
    if not is_terminal(sys.stderr):
        yield None
        return
    columns = (TextColumn(text), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as shown:
        task = shown.add_task(text, total=None)
        _bars.append(shown)
        try:
            yield lambda done, total: shown.update(task, completed=done, total=total)
        finally:
            _bars.pop()


class Steps:
    """What is being done, on stderr: a spinner on a terminal, a line for each step elsewhere."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def begin(self, text: str) -> None:
        """A new step."""
        if self._status is None:
            note(text)
        else:
            self._status.update(text)

    def update(self, text: str) -> None:
        """The same step, further on; shown on a terminal only."""
        if self._status is not None:
            self._status.update(text)


@contextmanager
def steps() -> Iterator[Steps]:
    """Steps until the end of the block, where the spinner goes away."""
    if is_terminal(sys.stderr):
        with console(stderr=True).status("") as status:
            yield Steps(status)
    else:
        yield Steps(None)
