"""Threads and tasks one at a time, in an order that a seed decides and repeats.

``strategies``   who goes on at each choice
``scheduler``    the baton, the threads, the clock
``standins``     locks, queues, pools, the event loop and the file system of a schedule
"""

from walkv.testing.schedule.scheduler import Deadlock, Schedule
from walkv.testing.schedule.strategies import (
    Only,
    Preemptions,
    Priorities,
    RandomWalk,
    Strategy,
)

__all__ = [
    "Deadlock",
    "Only",
    "Preemptions",
    "Priorities",
    "RandomWalk",
    "Schedule",
    "Strategy",
]
