"""What the steps of the demo's agent did to the world: lines in a file outside the store.

It stands for what cannot be taken back: payments, letters, calls of other services. A line is
written when a step takes effect, and says what came of it. So whoever counts the lines knows which
steps were done, and how often, whatever the store says.

Layout: one line of JSON for each effect, ``{"step": key, "result": ...}``.

Invariants:
    1. A line is synced before ``append`` returns.
    2. A line that the end of a process cut short is no effect: it is no JSON, and nothing is
       written behind it on the same line.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final, NamedTuple

ABSENT: Final = object()
"""What ``find`` gives for a step without an effect."""


class Effect(NamedTuple):
    """One line."""

    step: str
    result: Any


class Effects:
    """The log, open for appending."""

    def __init__(self, path: str) -> None:
        self._path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o644)
        size_bytes = os.fstat(self._file).st_size
        if size_bytes and os.pread(self._file, 1, size_bytes - 1) != b"\n":
            self._write(b"\n")

    def append(self, step: str, result: Any) -> None:
        """Let a step take effect."""
        self._write(json.dumps({"step": step, "result": result}).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)

    def find(self, step: str) -> Any:
        """The result that a step's effect had, or ``ABSENT``."""
        return next((each.result for each in read(self._path) if each.step == step), ABSENT)

    def close(self) -> None:
        os.close(self._file)


def read(path: str) -> list[Effect]:
    """All effects, in order; none if there is no log."""
    found = []
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            fields = json.loads(line)
            found.append(Effect(fields["step"], fields["result"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found
