"""Checkpoints: the states of threads of work, each at the price of its difference.

records      what is kept of a checkpoint, and what callers see
cutting      where a state is cut into segments
deltas       how one large part differs from another
recipes      what puts a state together again
states       states as recipes of parts that they share
threads      pools of parts, numbers, pending writes
base         putting a checkpoint's record, its parts and what is found by
upkeep       what is done with checkpoints whatever their states are
namespace    ``Checkpoints``
"""

from walkv.namespaces.checkpoints.namespace import Checkpoints
from walkv.namespaces.checkpoints.records import Checkpoint, CheckpointRecord, Pruned, Usage
from walkv.namespaces.checkpoints.threads import WRITES_IDX, PendingWrite

__all__ = [
    "WRITES_IDX",
    "Checkpoint",
    "CheckpointRecord",
    "Checkpoints",
    "PendingWrite",
    "Pruned",
    "Usage",
]
