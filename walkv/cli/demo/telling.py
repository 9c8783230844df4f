"""What the demo's agent says over its pipe, so that whoever kills it knows what it may expect.

Messages are msgpack arrays that begin with their kind:

    OPENED   created, commits replayed, bytes of a torn tail, milliseconds, tool calls cut off: the
             store is open
    STEP     round, number in the round, steps of the round, what it is about
    BEGAN    what, places, number of new records: a call to the store begins
    DONE     what, nanoseconds, entries: it has returned
    FOUND    entries: what the agent has found in the store and goes on from
    DOUBT    step, whether it had taken effect: a step that had begun and not ended
    RECALLED step: a step that had ended; its result came from the store
    ENDED    step: its call has returned
    SKIPPED  path, reason: a file that could not be read
    FAILED   reason; the last one

    place    [row, key]
    entry    [row, key, content]

Invariants:
    1. A call is done only after it has returned, and says so by one ``write`` to the pipe with no
       buffer in between: what the other end reads had returned, and what was written outlives this
       process.
    2. The content of an entry is of the record that the call returned; of a step and of the end of
       a tool call, which return none, it is of the record that is there then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final

import msgpack

from walkv.namespaces import codec
from walkv.namespaces.checkpoints import Checkpoint
from walkv.namespaces.executions import Execution
from walkv.namespaces.messages import Message
from walkv.namespaces.sessions import Session
from walkv.namespaces.users import User
from walkv.namespaces.workflows import Workflow

OPENED: Final = 0
STEP: Final = 1
BEGAN: Final = 2
DONE: Final = 3
FOUND: Final = 4
DOUBT: Final = 5
RECALLED: Final = 6
ENDED: Final = 7
SKIPPED: Final = 8
FAILED: Final = 9

TOOL_CALLS: Final = "tool calls"
STEPS: Final = "steps"
CHECKPOINTS: Final = "checkpoints"
_KEYS: Final[dict[type, tuple[str, tuple[str, ...]]]] = {
    User: ("users", ("user_id",)),
    Session: ("sessions", ("session_id",)),
    Message: ("messages", ("session_id", "seq")),
    Workflow: ("workflows", ("workflow_id",)),
    Checkpoint: (CHECKPOINTS, ("thread_id", "checkpoint_id")),
    Execution: (TOOL_CALLS, ("execution_id",)),
}
ROWS: Final = (*(row for row, _ in _KEYS.values()), STEPS)
"""What records are told apart by: their namespace, and steps from tool calls."""

_STDOUT: Final = 1


def place(record: Any) -> tuple[str, tuple[Any, ...]]:
    """Row and key of a record."""
    row, names = _KEYS[type(record)]
    if row is TOOL_CALLS and record.action_type == "step":
        row = STEPS
    return row, tuple(getattr(record, name) for name in names)


def content(record: Any) -> bytes:
    """All of a record, to be compared and to be read by name; of a state, its digest only."""
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    if isinstance(record, Checkpoint):
        values["data"] = codec.digest(record.data)
    return codec.encode(values)


def tell(kind: int, *message: Any) -> None:
    """Write a message, whole."""
    data = msgpack.packb((kind, *message))
    while data:
        data = data[os.write(_STDOUT, data) :]


def _entries(records: Iterable[Any]) -> list[Any]:
    return [[*place(record), content(record)] for record in records]


def tell_found(*records: Any) -> None:
    """Say what is there, if it is."""
    tell(FOUND, _entries(record for record in records if record is not None))


class Call:
    """A call to the store: its begin is told at once, its end by ``done``."""

    def __init__(self, what: str, places: Iterable[Any] = (), new: int = 0) -> None:
        self._what = what
        tell(BEGAN, what, list(places), new)
        self._began_ns = time.perf_counter_ns()

    def done(self, *records: Any) -> None:
        """It has returned, and these records are now as they are here."""
        elapsed_ns = time.perf_counter_ns() - self._began_ns
        tell(DONE, self._what, elapsed_ns, _entries(records))


@contextmanager
def call(what: str, places: Iterable[Any] = (), new: int = 0) -> Iterator[list[Any]]:
    """A block that is one call; it appends the records that the call returns.

    Args:
        what: is being done, as in "killed while ...".
        places: of records that it changes.
        new: number of records that it makes.
    """
    begun = Call(what, places, new)
    records: list[Any] = []
    try:
        yield records
    except Exception:
        begun.done()
        raise
    begun.done(*records)
