"""Who of this process works on a step, and how the others wait.

Invariants:
    1. A step is claimed by one ``dict.setdefault``, and given back by ``release``, which can be
       called again: whatever Ctrl-C has cut off in it, the next call does. So who calls it twice,
       each time in a ``finally``, leaves nothing behind wherever one Ctrl-C strikes.
    2. ``release`` first lets others have the step, then wakes who waits.

Source: a ``Future`` to wait for was rejected, and so was a lock around the claims: Ctrl-C in the
Python code of the one, or between taking the other and the block that gives it back, has others
wait for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from walkv.errors import WalkvError

_claims: Final[dict[tuple[str, str], Claim]] = {}
_held: Final[ContextVar[tuple[Claim, ...]]] = ContextVar("walkv_steps", default=())
"""The claims of the steps that the caller is inside of. Tasks begun in a step inherit them."""


class Claim:
    """The right to work on a step of an opening, once ``taken`` says so.

    Args:
        loop: of the task that works on it, which must not be waited for in the loop's thread.
    """

    def __init__(
        self, opening: str, key: str, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._place = (opening, key)
        self._loop = loop
        self._outer = _held.get()
        self._released = False
        self._wakes: list[Callable[[], Any]] = []

    def _other(self) -> Claim | None:
        """Take the step, or give the claim of who has it."""
        held = _claims.setdefault(self._place, self)
        if held is self:
            _held.set((*self._outer, self))
            return None
        if held in self._outer:
            raise WalkvError(
                f"step {self._place[1]!r} calls itself, or has a task that it waits for call it, "
                "and would wait for itself; give the inner one another key"
            )
        return held

    def take(self) -> None:
        """Block until the step is the caller's.

        Raises:
            WalkvError: that would be never.
        """
        while (held := self._other()) is not None:
            if held._loop is not None and held._loop is asyncio._get_running_loop():
                raise WalkvError(
                    f"step {self._place[1]!r} is under way in a task of this event loop, and to "
                    "wait for it here would stop the loop; await AsyncAgentStore's once"
                )
            gate = threading.Lock()
            gate.acquire()
            held._wakes.append(gate.release)
            if not held._released:  # else it may have woken its waiters before this one came
                gate.acquire()

    async def take_in_loop(self) -> None:
        """Wait, in a task, until the step is the caller's; see ``take``."""
        loop = asyncio.get_running_loop()
        while (held := self._other()) is not None:
            free = loop.create_future()
            held._wakes.append(partial(loop.call_soon_threadsafe, _resolve, free))
            if not held._released:
                await free

    def release(self) -> None:
        """Let others have the step, if it was taken. May be called again."""
        if _claims.get(self._place) is self:
            del _claims[self._place]
        self._released = True
        if _held.get()[-1:] == (self,):
            _held.set(self._outer)
        for wake in self._wakes:
            # It was woken before; or its loop was closed, and its tasks with it.
            with suppress(RuntimeError):
                wake()


def _resolve(free: asyncio.Future[None]) -> None:
    if not free.done():
        free.set_result(None)
