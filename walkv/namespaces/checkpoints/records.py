"""What is kept of a checkpoint, and what callers see of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """What is stored of a checkpoint besides the parts of its state.

    Attributes:
        number: its place in the order of its thread and namespace.
        recipe: of its state; see ``states``.
        state_bytes: size of the state as one piece.
        run_id: of the run that made it.
    """

    thread_id: str
    namespace: str
    number: int
    checkpoint_id: str
    parent_id: str | None
    run_id: str | None
    pool: int
    recipe: bytes
    state_bytes: int
    metadata: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint.

    Attributes:
        namespace: tells the checkpoints of subgraphs of one thread apart.
        data: the state; None where only the rest was asked for.
        size_bytes: of the state as one piece.
    """

    thread_id: str
    namespace: str
    checkpoint_id: str
    parent_id: str | None
    data: Any
    metadata: dict[str, Any]
    created_at: datetime = field(compare=False)
    run_id: str | None = None
    size_bytes: int = field(default=0, compare=False)


class Usage(NamedTuple):
    """What checkpoints take.

    Attributes:
        state_bytes: of all states, each as one piece.
        kept_bytes: of the parts that are kept, before compression.
    """

    checkpoint_count: int
    write_count: int
    state_bytes: int
    kept_bytes: int


class Pruned(NamedTuple):
    """What ``prune`` has deleted, or would delete.

    Attributes:
        freed_bytes: of parts that nothing needs any more; 0 in a dry run.
    """

    checkpoint_count: int
    freed_bytes: int
