"""stdout and stderr as the command needs them: they take any text, and name themselves in errors.

Needs nothing but the standard library: it is used before it is known what is installed.
"""

from __future__ import annotations

import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any

_ERRORS = "backslashreplace"
"""Not every terminal, and no C locale, knows every letter of a store."""


class _Output(FileIO):
    """A standard stream that an error of writing is of."""

    def __init__(self, descriptor: int, shown: str) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._shown = shown

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = self._shown
            raise


def prepare() -> None:
    """Make stdout and stderr fit for this process."""
    stdout, stderr = sys.stdout, sys.stderr
    if isinstance(stdout, TextIOWrapper):
        stdout.flush()
        sys.stdout = TextIOWrapper(
            BufferedWriter(_Output(stdout.fileno(), "<stdout>")),
            stdout.encoding,
            _ERRORS,
            line_buffering=stdout.line_buffering,
        )
    if isinstance(stderr, TextIOWrapper):
        stderr.reconfigure(errors=_ERRORS)
