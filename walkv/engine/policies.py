"""When a commit is acknowledged: the sync policies.

What each of them promises is one table in ``docs/durability.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from walkv import limits


@dataclass(frozen=True, slots=True)
class WriteThrough:
    """A commit returns once its own write and its own sync are done."""


@dataclass(frozen=True, slots=True)
class Wal:
    """A commit returns once a sync covers it; commits that arrive meanwhile share the next one."""


@dataclass(frozen=True, slots=True)
class WriteBack:
    """A commit returns once it is in the OS's hands; syncs follow in the background.

    It survives ``kill -9``. A power failure loses at most the commits of the last
    ``interval_seconds`` (and the time a sync takes), or the last ``max_unsynced_bytes``, whichever
    is less.
    """

    interval_seconds: float = 1.0
    max_unsynced_bytes: int = 16 * limits.MIB

    def __post_init__(self) -> None:
        if not self.interval_seconds > 0:
            raise ValueError(f"interval_seconds must be above 0, not {self.interval_seconds}")
        if not self.max_unsynced_bytes > 0:
            raise ValueError(f"max_unsynced_bytes must be above 0, not {self.max_unsynced_bytes}")


SyncPolicy = WriteThrough | Wal | WriteBack


def check_policy(policy: Any) -> None:
    if policy is not None and type(policy) not in (Wal, WriteThrough, WriteBack):
        raise TypeError(
            f"sync is WriteThrough(), Wal() or WriteBack(...), an instance and not {policy!r}"
        )
