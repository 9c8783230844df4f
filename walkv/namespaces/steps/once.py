"""The executions, with ``once``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from walkv.engine.policies import SyncPolicy
from walkv.namespaces.executions import ExecutionLog, noting
from walkv.namespaces.steps.claims import Claim
from walkv.namespaces.steps.commits import ASK, RETURNED, Call, Steps


class Executions(ExecutionLog):
    """All executions. Default sync policy: ``WriteBack()``, and ``Wal()`` for steps."""

    @property
    def steps(self) -> Steps:
        """The two commits of a step; see ``steps``."""
        return Steps(self)

    def once(
        self,
        key: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        on_indeterminate: Any = "raise",
        retry_failed: bool = False,
        sync: SyncPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function once, for good: its result is kept, and given back from then on.

        Args:
            key: names the step, in this store and for ever: a thread's id and a step's number, an
                order's id.
            function: does the work; called as ``function(*args, **kwargs)``.
            on_indeterminate: what to do if the process ended while the function ran, so that nobody
                knows what it did: ``"raise"``; ``"run"`` to call it again; or a function of the
                execution that finds out: it returns the result, or ``RUN_AGAIN``.
            retry_failed: call it again if it has failed before.
            sync: policy of the two commits, ``Wal()`` by default; ``WriteBack`` is refused.
        Returns:
            What the function returned, now or then, as it is kept: a named tuple as a tuple.
        Raises:
            IndeterminateError: see ``on_indeterminate``.
            StepFailedError: the function raised before, and is not called again.
            WalkvError: the step waits for itself, or runs inside a batch.
            TypeError: the key is no ``str``; or a coroutine function, which an ``AsyncAgentStore``
                awaits.
            CodecError: what it returned cannot be stored; the step counts as failed.
        Durability: the intent is durable before the function is called, the result when this
            returns. Two threads or tasks with one key call the function once. Who is stopped before
            the function was called (Ctrl-C, a cancelled task) leaves the step as it was.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError("a coroutine function is a step of an AsyncAgentStore only")
        call = Call.of(key, function, args, kwargs, on_indeterminate, retry_failed, sync)
        self.steps.refuse_batch()
        claim = Claim(self.access.kv.opening, call.key)
        try:
            try:
                claim.take()
                return self._run_claimed(call, args, kwargs)
            finally:
                claim.release()
        finally:
            claim.release()  # what Ctrl-C may have cut off in there

    def _run_claimed(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        steps = self.steps
        try:
            found = steps.begin(call)
            if found.state is ASK and found.execution is not None:
                answer = call.on_indeterminate(found.execution)
                found = steps.decide(call, found.execution, answer)
            if found.state is RETURNED:
                return found.result
            call.begin()
            result = call.function(*args, **kwargs)
        except BaseException as error:
            with noting(error, f"step {call.key!r}"):
                steps.stop(call, error)
            raise
        return steps.end(call, result)
