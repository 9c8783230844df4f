"""Fakes for the tests: a clock, a file system that fails, and one that loses power."""

from support.clock import ManualClock
from support.crashing import CrashFileSystem, Disk
from support.faulty import Call, Fault, FaultyFileSystem

__all__ = ["Call", "CrashFileSystem", "Disk", "Fault", "FaultyFileSystem", "ManualClock"]
