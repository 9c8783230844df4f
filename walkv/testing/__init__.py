"""Fakes to test what is built on walkv, and walkv itself, against crashes and failing disks.

``SimulatedFileSystem``   in memory; lists what a power failure at any moment may leave behind
``FaultyFileSystem``      over the real or the simulated one; fails the call it is told to
``ModelStore``            a dict with history: was what is found after a crash allowed?
``Schedule``              runs threads and tasks one at a time, in an order that a seed repeats
``ManualClock``           moves when it is told to

Give a file system to ``walkv.open(..., filesystem=...)``. The project's own laboratory is built of
these; ``docs/reliability.md`` tells how.
"""

from walkv.testing.clock import ManualClock
from walkv.testing.faults import Call, Fault, FaultyFileSystem
from walkv.testing.model import LostError, ModelStore, Operation
from walkv.testing.schedule import Deadlock, Schedule
from walkv.testing.simulated import Disk, SimulatedFileSystem

__all__ = [
    "Call",
    "Deadlock",
    "Disk",
    "Fault",
    "FaultyFileSystem",
    "LostError",
    "ManualClock",
    "ModelStore",
    "Operation",
    "Schedule",
    "SimulatedFileSystem",
]
