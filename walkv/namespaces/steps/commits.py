"""The commits of a step: its intent, and how it ended.

Invariants:
    1. An intent is taken back only while the record is, byte by byte, the one that was written for
       it; then it is again what it was before.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from walkv.engine.policies import SyncPolicy, Wal, WriteBack
from walkv.errors import CodecError, IndeterminateError, LimitError, StepFailedError, WalkvError
from walkv.namespaces import codec
from walkv.namespaces.executions import (
    STEP_PREFIX,
    Execution,
    ExecutionLog,
    noting,
    storable,
    told,
)
from walkv.namespaces.keyvalue import Writer
from walkv.namespaces.steps.naming import plain_key

T = TypeVar("T")


class _Word:
    """A word that stands for itself."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


RUN_AGAIN: Final = _Word("RUN_AGAIN")
"""What an ``on_indeterminate`` function returns to have the step run again."""

RETURNED: Final = _Word("RETURNED")
CALL: Final = _Word("CALL")
ASK: Final = _Word("ASK")
FAILED: Final = _Word("FAILED")


class Found(NamedTuple):
    """What is to be done about a step.

    Attributes:
        state: ``RETURNED``: the result is known. ``CALL``: the function is to be called, and the
            intent is noted. ``ASK``: it is indeterminate, and the caller has a function for that.
            ``FAILED``: it has failed, and is not to be called again.
        execution: what was found, if it is indeterminate or has failed.
    """

    state: _Word
    result: Any = None
    execution: Execution | None = None


@dataclass(slots=True)
class Call:
    """One call of ``once``.

    Attributes:
        given: what the function is called with, for the record.
        name: of the function, for the record.
        began: when the function was called, by a clock that does not jump; None before that.
        before, noted: the record before and after its intent was noted.
    """

    key: str
    function: Callable[..., Any]
    given: dict[str, Any]
    name: str
    on_indeterminate: Any
    retry_failed: bool
    sync: SyncPolicy | None
    began: float | None = None
    before: bytes | None = None
    noted: bytes | None = None

    @classmethod
    def of(
        cls,
        key: Any,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        on_indeterminate: Any,
        retry_failed: bool,
        sync: SyncPolicy | None,
    ) -> Call:
        """A call of ``once``, its arguments checked.

        Raises:
            TypeError, ValueError: they are not what ``Executions.once`` says.
        """
        key = plain_key(key)
        if not callable(function):
            raise TypeError(
                "once(key, function, *args) calls the function itself, and this is a "
                f"{type(function).__name__}"
            )
        if on_indeterminate not in ("raise", "run") and not callable(on_indeterminate):
            raise ValueError(
                f"on_indeterminate is 'raise', 'run' or a function, not {on_indeterminate!r}"
            )
        if type(sync) is WriteBack:
            raise ValueError("a step's intent and result are durable: sync cannot be WriteBack")
        called = function
        # A ``partial`` brings along some of what it calls is given.
        while isinstance(called, functools.partial):
            args, kwargs = (*called.args, *args), {**called.keywords, **kwargs}
            called = called.func
        name = getattr(called, "__qualname__", type(called).__qualname__)
        given = {"args": list(args), "kwargs": kwargs}
        return cls(key, function, given, name, on_indeterminate, retry_failed, sync)

    def begin(self) -> None:
        """From now on the function counts as called."""
        self.began = time.perf_counter()

    def elapsed_seconds(self) -> float | None:
        """Since the function was called, if it was."""
        return None if self.began is None else time.perf_counter() - self.began


class Steps:
    """The commits of steps. The caller holds the claim of the key."""

    def __init__(self, executions: ExecutionLog) -> None:
        self._executions = executions

    def refuse_batch(self) -> None:
        """Refuse to run in a batch of the caller's.

        Raises:
            WalkvError: there is one.
        """
        if self._executions.access.batch() is not None:
            raise WalkvError(
                "a step cannot run inside a batch: its intent has to be durable before it runs"
            )

    def begin(self, call: Call) -> Found:
        """Look at a step, and note the intent if it is to be run.

        Raises:
            IndeterminateError, StepFailedError: as ``Executions.once`` says.
        """
        given = storable(call.given)

        def run(tx: Writer) -> Found:
            found = self._look(tx, call.key)
            if found is None:
                self._note(tx, call, 1, given, call.name)
                return Found(CALL)
            if found.status == "success":
                return Found(RETURNED, found.output_data)
            if found.status == "failed":
                if not call.retry_failed:
                    return Found(FAILED, execution=found)
            elif call.on_indeterminate == "raise":
                raise _indeterminate(call.key, found)
            elif callable(call.on_indeterminate):
                return Found(ASK, execution=found)
            self._note(tx, call, found.metadata.get("attempt", 1) + 1, given, call.name)
            return Found(CALL)

        found = self._write(run, call.sync)
        if found.state is RETURNED or found.state is FAILED:
            # Who noted it may have been stopped while it waited for that.
            access = self._executions.access
            ticket = access.kv.barrier()
            if ticket is not None:
                access.settle(ticket)
        if found.state is FAILED and found.execution is not None:
            raise _failed(call.key, found.execution)
        return found

    def decide(self, call: Call, execution: Execution, result: Any) -> Found:
        """Note what a caller has found out about an indeterminate step.

        Raises:
            CodecError: it cannot be stored; the step stays indeterminate.
        """
        if result is not RUN_AGAIN:
            return Found(RETURNED, self._keep(call, result))
        attempt = execution.metadata.get("attempt", 1) + 1
        name, given = execution.tool_name or "", execution.input_data
        self._write(lambda tx: self._note(tx, call, attempt, given, name), call.sync)
        return Found(CALL)

    def end(self, call: Call, result: Any) -> Any:
        """Note the result of a step; returns it as it will be given back.

        Raises:
            CodecError: it cannot be stored; the step is noted as failed, since it has been run.
        """
        try:
            return self._keep(call, result)
        except CodecError as error:
            with noting(error, f"step {call.key!r}"):
                self._end_failed(call, error)
            raise

    def _keep(self, call: Call, result: Any) -> Any:
        try:
            kept = codec.decode(codec.encode(result))
            self._finish(call, "success", kept, None)
        except (CodecError, LimitError) as error:
            raise CodecError(
                f"executions.output_data: the result of step {call.key!r} cannot be stored: "
                f"{error}",
                namespace="executions",
                field="output_data",
            ) from error
        return kept

    def stop(self, call: Call, error: BaseException) -> None:
        """Note how a step failed; or, if its function was not called, take back its intent."""
        if call.began is not None:
            self._end_failed(call, error)
        elif call.noted is not None:
            # It need not be waited for: until it is durable the step is in doubt, as it was.
            self._executions.access.write(lambda tx: self._take_back(tx, call), WriteBack())

    def _end_failed(self, call: Call, error: BaseException) -> None:
        # What is no ``Exception`` (Ctrl-C, a cancelled task) only stopped it: what it did is not
        # known.
        status = "failed" if isinstance(error, Exception) else "cancelled"
        self._finish(call, status, None, error)

    def _take_back(self, tx: Writer, call: Call) -> None:
        executions = self._executions
        table = executions.table
        packed = table.packed_key(STEP_PREFIX + call.key)
        noted = tx.get(table.records + packed)
        if noted is None or noted != call.noted:
            return
        if call.before is None:
            executions.remove_in(tx, packed, noted)
        else:
            values = table.schema.decode(call.before).values
            executions.write_in(tx, packed, values, noted, None)

    def _finish(self, call: Call, status: str, result: Any, error: BaseException | None) -> None:
        now, elapsed_seconds = self._executions.now(), call.elapsed_seconds()

        def change(execution: Execution) -> dict[str, Any]:
            metadata = dict(execution.metadata)
            if error is not None:
                metadata["error_type"] = type(error).__name__
            return {
                "status": status,
                "output_data": result,
                "error_message": None if error is None else told(error),
                "completed_at": now,
                "execution_time_seconds": elapsed_seconds,
                "metadata": metadata,
            }

        packed = self._executions.table.packed_key(STEP_PREFIX + call.key)
        self._write(lambda tx: self._executions.modify_in(tx, packed, change), call.sync)

    def _look(self, tx: Writer, key: str) -> Execution | None:
        table = self._executions.table
        data = tx.get(table.records + table.packed_key(STEP_PREFIX + key))
        if data is None:
            return None
        found = table.schema.build(table.schema.decode(data).values)
        if found.action_type != "step":
            raise WalkvError(
                f"execution {found.execution_id!r} is no step but a {found.action_type}, so step "
                f"{key!r} cannot be run; delete that, or use another key"
            )
        return found

    def _note(self, tx: Writer, call: Call, attempt: int, given: Any, name: str) -> None:
        executions = self._executions
        table = executions.table
        execution = table.schema.record_type(
            STEP_PREFIX + call.key,
            None,
            None,
            "",
            name,
            "step",
            given,
            None,
            "running",
            executions.now(),
            metadata={"attempt": attempt},
        )
        values = table.schema.values(execution)
        packed = table.key_of(values)
        before = tx.get(table.records + packed)
        executions.write_in(tx, packed, values, before, None)
        call.before, call.noted = before, tx.get(table.records + packed)

    def _write(self, function: Callable[[Writer], T], sync: SyncPolicy | None) -> T:
        declared = self._executions.sync
        durable = Wal() if declared is None or type(declared) is WriteBack else declared
        return self._executions.access.write(function, sync or durable)


def _failed(key: str, found: Execution) -> StepFailedError:
    error_type = found.metadata.get("error_type", "")
    message = found.error_message or ""
    return StepFailedError(
        f"step {key!r} has failed before ({error_type}: {message}), and is not run again; "
        "say retry_failed=True to run it again",
        key=key,
        error_type=error_type,
        error_message=message,
    )


def _indeterminate(key: str, found: Execution) -> IndeterminateError:
    return IndeterminateError(
        f"step {key!r} was begun at {found.started_at:%Y-%m-%d %H:%M:%S} UTC and did not end "
        f"({found.status}): nobody knows what it did. Say on_indeterminate='run' to run it again, "
        "or give a function that finds out",
        key=key,
    )
