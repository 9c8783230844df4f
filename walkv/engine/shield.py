"""Runs what must not be cut in two by Ctrl-C where Ctrl-C cannot reach it.

Python runs signal handlers in the main thread, between any two instructions. A commit is built so
that this does no harm; a rotation, a compaction or a close has too many steps for that. They run in
a thread of their own while the main thread waits, and the interruption is raised when they are
done.
"""

from __future__ import annotations

import threading
from _thread import start_new_thread
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def shielded(function: Callable[[], T], on_interrupt: Callable[[], None] | None = None) -> T:
    """Call ``function`` whole; what it returns or raises, or the interruption that came meanwhile.

    Args:
        on_interrupt: asks a long function to come to its end.
    Cost: starting a thread, if this is the main thread; elsewhere nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Lock()
    done.acquire()

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001  # raised in the thread that asked
            errors.append(error)
        done.release()

    interruption: BaseException | None = None
    try:
        # One call of C code: the thread runs or it does not. ``Thread.start`` can be left between.
        start_new_thread(run, ())
    except RuntimeError:
        return function()  # no thread to be had: without the shield, then
    except BaseException as error:  # noqa: BLE001  # kept, and raised below
        interruption = error
    while not results and not errors:
        try:
            done.acquire()
        except BaseException as error:  # noqa: BLE001  # kept, and raised below
            interruption = error
            if on_interrupt is not None:
                on_interrupt()
    if interruption is not None:
        raise interruption from (errors[0] if errors else None)
    if errors:
        raise errors[0]
    return results[0]
