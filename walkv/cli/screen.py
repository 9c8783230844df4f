"""A screen that is drawn again and again, until a key or Ctrl-C ends it."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live

from walkv.cli import output


def repeat(show: Callable[[], object], interval_seconds: float, count: int | None) -> None:
    """Show now and after each interval, until Ctrl-C, or ``count`` times."""
    shown = 0
    while True:
        show()
        shown += 1
        if shown == count:
            return
        time.sleep(interval_seconds)


def redraw(draw: Callable[[], RenderableType], interval_seconds: float, count: int | None) -> None:
    """Draw now and after each interval, in place, until q or Ctrl-C, or ``count`` times."""
    with keys() as pressed, Live(console=output.console(), auto_refresh=False) as live:
        drawn = 0
        while True:
            live.update(draw(), refresh=True)
            drawn += 1
            if drawn == count or pressed(interval_seconds) in ("q", "Q"):
                return


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key; it returns the key, or nothing.

    Keys come at once, without Enter, and are not shown. Where stdin is no terminal it only waits.
    """
    if not output.is_terminal(sys.stdin):
        yield _wait
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield _pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _wait(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _pressed(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) if ready else ""
