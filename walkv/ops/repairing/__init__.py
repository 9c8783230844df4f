"""``repair``: all that can still be read of a damaged store, saved into a new one.

Reading order: ``report`` (what is said of it), ``medium`` (reading without a trace), ``headers``,
``segments`` and ``pages`` (what is valid in a file, and what is between), ``snapshots``,
``sources`` (which files are the store), ``merging``, ``targets`` (the new store), ``repair``.
"""

from walkv.ops.repairing.repair import repair
from walkv.ops.repairing.report import Damage, FileReport, RepairReport

__all__ = ["Damage", "FileReport", "RepairReport", "repair"]
