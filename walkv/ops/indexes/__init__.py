"""Do records and what is kept beside them agree? And if not, make them.

For every namespace that a store has registered, those that an application has declared itself too:
what is needed for that is in the registry, so the code that declared them is not.

Reading order: ``mends`` (what is wrong, and what puts it right), ``tables`` (index entries),
``messages`` and ``checkpoints`` (counts and numbers of these), ``run``, ``registering`` (a registry
that is lost).
"""

from walkv.ops.indexes.registering import rebuild_registry
from walkv.ops.indexes.run import rebuild_indexes, verify_indexes

__all__ = ["rebuild_indexes", "rebuild_registry", "verify_indexes"]
