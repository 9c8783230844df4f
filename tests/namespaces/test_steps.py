"""Steps: what has finished is never run again, whoever asks, and whenever the process ends."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

import walkv
from tests.unit.hooked import HookedFileSystem
from walkv import (
    RUN_AGAIN,
    AgentStore,
    AsyncAgentStore,
    ClosedError,
    CodecError,
    IndeterminateError,
    LimitError,
    ReadOnlyError,
    StepFailedError,
    WalkvError,
    limits,
)
from walkv.namespaces.executions import Execution
from walkv.namespaces.steps import Claim, claims, step_key
from walkv.testing import Call, FaultyFileSystem, SimulatedFileSystem


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []
        assert claims._claims == {}


class Work:
    """A function that counts its calls."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.calls: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def never(*args: Any) -> Any:
    raise AssertionError("a step that is over was run again")


def found(agent: AgentStore, key: str) -> Execution:
    execution = agent.executions.get(f"step/{key}")
    assert execution is not None
    return execution


def reopened(fs: SimulatedFileSystem) -> AgentStore:
    """An agent after the process of another was killed."""
    return AgentStore("/a.walkv", filesystem=fs.after_kill())


def begun_and_killed(fs: SimulatedFileSystem) -> SimulatedFileSystem:
    """A machine whose process was killed in the middle of the step "pay"."""
    twins = []
    with AgentStore("/a.walkv", filesystem=fs) as agent:
        agent.executions.once("pay", lambda _: twins.append(fs.after_kill()), 100)
    return twins[0]


# -- results -------------------------------------------------------------------------------------


def test_a_finished_step_is_never_run_again(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    work = Work({"receipt": (1, b"\0"), "tags": {"x"}})
    assert agent.executions.once("pay", work, 100, to="ada") == work.result
    assert work.calls == [((100,), {"to": "ada"})]
    assert agent.executions.once("pay", never) == work.result
    execution = found(agent, "pay")
    assert (execution.status, execution.action_type) == ("success", "step")
    assert execution.input_data == {"args": [100], "kwargs": {"to": "ada"}}
    assert execution.output_data == work.result
    with reopened(fs) as after:
        assert after.executions.once("pay", never) == work.result
        assert after.executions.once("pay2", Work(2)) == 2
    agent.executions.once("none", Work(None))
    assert agent.executions.once("none", never) is None


def test_a_result_is_the_same_now_and_then(agent: AgentStore) -> None:
    """Who relies on more than what is kept learns it at once, not after a crash."""

    class Point(NamedTuple):
        x: int

    for key, result, kept in [
        ("tuple", Point(1), (1,)),
        ("bytes", bytearray(b"x"), b"x"),
        ("counter", Counter("aab"), {"a": 2, "b": 1}),
    ]:
        for function in (Work(result), never):
            again = agent.executions.once(key, function)
            assert again == kept
            assert type(again) is type(kept)
    mutable = {"n": 1}
    agent.executions.once("mutable", Work(mutable))["n"] = 2
    assert agent.executions.once("mutable", never) == {"n": 1} == mutable


def test_a_failed_step_stays_so_until_told_otherwise(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    error = ValueError("card declined")
    with pytest.raises(ValueError, match="declined") as raised:
        agent.executions.once("pay", Work(error))
    assert raised.value is error
    with pytest.raises(StepFailedError, match="'pay' has failed before") as caught:
        agent.executions.once("pay", never)
    assert (caught.value.key, caught.value.error_type) == ("pay", "ValueError")
    assert caught.value.error_message == "card declined"
    with reopened(fs) as after, pytest.raises(StepFailedError):
        after.executions.once("pay", never, on_indeterminate="run")
    again = Work(KeyError("x"))
    with pytest.raises(KeyError):
        agent.executions.once("pay", again, retry_failed=True)
    assert found(agent, "pay").metadata["attempt"] == 2
    assert agent.executions.once("pay", Work(7), retry_failed=True) == 7
    execution = found(agent, "pay")
    assert (execution.status, execution.error_message) == ("success", None)
    assert execution.metadata["attempt"] == 3
    assert "error_type" not in execution.metadata
    assert agent.executions.once("pay", never, retry_failed=True) == 7


def test_a_result_that_cannot_be_stored_is_a_failure(agent: AgentStore) -> None:
    work = Work(agent)
    with pytest.raises(CodecError, match=r"executions\.output_data: the result of step 'pay'"):
        agent.executions.once("pay", work)
    assert len(work.calls) == 1
    with pytest.raises(StepFailedError) as caught:
        agent.executions.once("pay", never)
    assert caught.value.error_type == "CodecError"
    assert "cannot be stored" in caught.value.error_message


def test_a_result_that_is_too_large_is_a_failure(
    agent: AgentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 2000)
    with pytest.raises(CodecError, match="at most 2000 bytes") as caught:
        agent.executions.once("pay", Work("x" * 3000))
    assert isinstance(caught.value.__cause__, LimitError)
    with pytest.raises(StepFailedError):
        agent.executions.once("pay", never)
    work = Work()
    with pytest.raises(LimitError):
        agent.executions.once("large", work, "x" * 3000)
    assert work.calls == []
    with pytest.raises(LimitError):
        agent.executions.once("k" * 5000, work)
    assert work.calls == []


def test_an_error_whose_words_cannot_be_stored_is_noted(agent: AgentStore) -> None:
    error = FileNotFoundError("no such file: caf\udce9.txt")
    with pytest.raises(FileNotFoundError) as caught:
        agent.executions.once("read", Work(error))
    assert caught.value is error
    with pytest.raises(StepFailedError, match=r"caf\\udce9\.txt"):
        agent.executions.once("read", never)


def test_arguments_that_cannot_be_stored_are_described(agent: AgentStore) -> None:
    assert agent.executions.once("pay", Work(1), agent, to=agent) == 1
    given = found(agent, "pay").input_data
    assert given.startswith("{'args': [<walkv.AgentStore")


def test_what_is_called_is_told_with_all_its_arguments(agent: AgentStore) -> None:
    def pay(*args: Any, **kwargs: Any) -> int:
        return 1

    long = "x" * 10_000
    bound = functools.partial(functools.partial(pay, 1, to="ada"), long, to="bob")
    assert agent.executions.once("partial", bound, 3, now=True) == 1
    execution = found(agent, "partial")
    assert execution.tool_name == pay.__qualname__
    assert execution.input_data == {"args": [1, long, 3], "kwargs": {"to": "bob", "now": True}}
    agent.executions.once("object", Work())
    assert found(agent, "object").tool_name == "Work"
    assert agent.step(key="by/{to}")(pay_to)("ada", 7) == 7
    execution = found(agent, "by/ada")
    assert execution.tool_name == "pay_to"
    assert execution.input_data == {"args": ["ada", 7], "kwargs": {}}


def pay_to(to: str, amount: int) -> int:
    return amount


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_who_is_stopped_leaves_it_indeterminate(agent: AgentStore, error: BaseException) -> None:
    with pytest.raises(type(error)):
        agent.executions.once("pay", Work(error))
    with pytest.raises(IndeterminateError, match=r"\(cancelled\)") as caught:
        agent.executions.once("pay", never)
    assert caught.value.key == "pay"
    with pytest.raises(IndeterminateError):
        agent.executions.once("pay", never, retry_failed=True)
    assert agent.executions.once("pay", Work(5), on_indeterminate="run") == 5


# -- what nobody knows ---------------------------------------------------------------------------


def test_raise_is_the_default_and_changes_nothing(fs: SimulatedFileSystem) -> None:
    with AgentStore("/a.walkv", filesystem=begun_and_killed(fs)) as agent:
        before = dict(agent.store.scan())
        for _ in range(2):
            with pytest.raises(IndeterminateError, match="step 'pay' was begun at 2023-11-14"):
                agent.executions.once("pay", never)
        assert dict(agent.store.scan()) == before
        assert found(agent, "pay").input_data == {"args": [100], "kwargs": {}}


def test_run_calls_it_again(fs: SimulatedFileSystem) -> None:
    with AgentStore("/a.walkv", filesystem=begun_and_killed(fs)) as agent:
        work = Work("paid")
        assert agent.executions.once("pay", work, 100, on_indeterminate="run") == "paid"
        assert work.calls == [((100,), {})]
        assert found(agent, "pay").metadata["attempt"] == 2
        assert agent.executions.once("pay", never, on_indeterminate="run") == "paid"


def test_a_function_finds_out_what_happened(fs: SimulatedFileSystem) -> None:
    with AgentStore("/a.walkv", filesystem=begun_and_killed(fs)) as agent:
        seen: list[Execution] = []

        def recover(execution: Execution) -> Any:
            seen.append(execution)
            return {"receipt": 17}

        result = agent.executions.once("pay", never, on_indeterminate=recover)
        assert result == {"receipt": 17}
        (execution,) = seen
        assert (execution.execution_id, execution.status) == ("step/pay", "running")
        assert execution.input_data == {"args": [100], "kwargs": {}}
        assert agent.executions.once("pay", never, on_indeterminate=recover) == result
        assert len(seen) == 1


def test_a_function_says_run_again(fs: SimulatedFileSystem) -> None:
    with AgentStore("/a.walkv", filesystem=begun_and_killed(fs)) as agent:
        work = Work(3)
        assert agent.executions.once("pay", work, 5, on_indeterminate=lambda _: RUN_AGAIN) == 3
        assert work.calls == [((5,), {})]
        assert found(agent, "pay").metadata["attempt"] == 2
        assert repr(RUN_AGAIN) == "RUN_AGAIN"


@pytest.mark.parametrize(
    ("recover", "error"),
    [(Work(OSError("bank is down")), OSError), (Work(object()), CodecError)],
)
def test_a_function_that_fails_leaves_it_as_it_was(
    fs: SimulatedFileSystem, recover: Work, error: type[Exception]
) -> None:
    with AgentStore("/a.walkv", filesystem=begun_and_killed(fs)) as agent:
        with pytest.raises(error):
            agent.executions.once("pay", never, on_indeterminate=recover)
        with pytest.raises(IndeterminateError):
            agent.executions.once("pay", never)
        assert agent.executions.once("pay", never, on_indeterminate=Work(1)) == 1


# -- refused -------------------------------------------------------------------------------------


def test_what_is_refused_is_not_begun(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    before = dict(agent.store.scan())
    work = Work()
    with pytest.raises(WalkvError, match="inside a batch"), agent.batch():
        agent.executions.once("pay", work)
    with pytest.raises(ValueError, match="WriteBack"):
        agent.executions.once("pay", work, sync=walkv.WriteBack())
    with pytest.raises(ValueError, match="on_indeterminate is"):
        agent.executions.once("pay", work, on_indeterminate="maybe")

    async def later() -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="AsyncAgentStore"):
        agent.executions.once("pay", later)
    with pytest.raises(TypeError, match="AsyncAgentStore"):
        agent.executions.once("pay", functools.partial(later))
    assert work.calls == []
    assert dict(agent.store.scan()) == before
    agent.executions.once("pay", work)
    with AgentStore("/a.walkv", filesystem=fs, read_only=True) as reader:
        with pytest.raises(ReadOnlyError):
            reader.executions.once("new", work)
        assert len(work.calls) == 1


def test_a_closed_store_begins_nothing(fs: SimulatedFileSystem) -> None:
    agent = AgentStore("/a.walkv", filesystem=fs)
    agent.close()
    work = Work()
    with pytest.raises(ClosedError):
        agent.executions.once("pay", work)
    assert work.calls == []
    assert claims._claims == {}


def test_a_step_inside_a_step_has_a_key_of_its_own(agent: AgentStore) -> None:
    def outer() -> Any:
        with pytest.raises(WalkvError, match="calls itself"):
            agent.executions.once("outer", never)
        return agent.executions.once("inner", Work(2)) + 1

    assert agent.executions.once("outer", outer) == 3
    assert agent.executions.once("inner", never) == 2


# -- what is durable, and when -------------------------------------------------------------------


def test_the_intent_is_durable_before_and_the_result_after(fs: SimulatedFileSystem) -> None:
    agent = AgentStore("/a.walkv", filesystem=fs)
    assert agent.executions.sync == walkv.WriteBack()

    def statuses() -> set[str | None]:
        seen: set[str | None] = set()
        for disk in fs.crash_states():
            after = SimulatedFileSystem.after_power_failure(disk)
            with AgentStore("/a.walkv", filesystem=after) as left:
                execution = left.executions.get("step/pay")
                seen.add(None if execution is None else execution.status)
        return seen

    inside = agent.executions.once("pay", lambda: sorted(map(str, statuses())))
    assert inside == ["running"]
    assert statuses() == {"success"}
    agent.close()


@pytest.mark.parametrize("crash", ["kill", "power"])
@pytest.mark.parametrize("policy", [None, walkv.WriteThrough()])
def test_a_crash_between_any_two_calls(
    fs: SimulatedFileSystem, crash: str, policy: walkv.Wal | None
) -> None:
    """At each operation of the disk during three steps, the next process goes on: every effect is
    there once, and what is in doubt is asked for."""
    effects: list[str] = []
    crashes: list[tuple[SimulatedFileSystem, list[str]]] = []

    def snapshot(operation: str, path: str) -> None:
        if crash == "kill":
            crashes.append((fs.after_kill(), list(effects)))
        else:
            for disk in fs.crash_states(Random(fs.operation_count)):
                crashes.append((SimulatedFileSystem.after_power_failure(disk), list(effects)))

    def act(name: str) -> str:
        effects.append(name)
        snapshot("between effect and result", "")
        return f"{name} done"

    def program(agent: AgentStore, recover: Any) -> list[Any]:
        return [
            agent.executions.once(name, act, name, on_indeterminate=recover, sync=policy)
            for name in ("a", "b", "c")
        ]

    def in_doubt(agent: AgentStore) -> set[str]:
        running = agent.executions.query(action_type="step", status="running")
        return {execution.execution_id.partition("/")[2] for execution in running}

    agent = AgentStore("/a.walkv", filesystem=fs)
    fs.on_operation = snapshot
    assert program(agent, "raise") == ["a done", "b done", "c done"]
    fs.on_operation = None
    agent.close()
    doubts: Counter[tuple[str, ...]] = Counter()
    asked: list[str] = []

    def recover(execution: Execution) -> Any:
        name = execution.input_data["args"][0]
        asked.append(name)
        return f"{name} done" if name in effects else RUN_AGAIN

    for machine, kept in list(crashes):
        effects, asked = kept, []
        with AgentStore("/a.walkv", filesystem=machine) as after:
            doubtful = in_doubt(after)
            finished = {e.execution_id for e in after.executions.query(status="success")}
            assert len(finished) <= len(effects) <= len(finished) + len(doubtful)
            assert program(after, recover) == ["a done", "b done", "c done"]
            assert effects == ["a", "b", "c"]
            assert set(asked) == doubtful
            doubts[tuple(doubtful)] += 1
            assert program(after, "raise") == ["a done", "b done", "c done"]
    # Before the first, in each of the three, and between them.
    assert set(doubts) == {(), ("a",), ("b",), ("c",)}


# -- stopped at a bad moment ---------------------------------------------------------------------


def interrupt_syncs(fs: SimulatedFileSystem, when: Callable[[], bool] = lambda: True) -> None:
    """Ctrl-C while a sync is waited for."""

    def interrupt(operation: str, path: str) -> None:
        if operation == "sync_data" and when():
            raise KeyboardInterrupt

    fs.on_operation = interrupt


@pytest.mark.parametrize("result", ["paid", ValueError("declined")])
def test_a_step_is_over_only_when_that_is_durable(
    agent: AgentStore, fs: SimulatedFileSystem, result: Any
) -> None:
    work = Work(result)
    interrupt_syncs(fs, lambda: bool(work.calls))
    with pytest.raises(KeyboardInterrupt):
        agent.executions.once("pay", work)
    fs.on_operation = None
    log = agent.store.engine.write_log
    assert log.durable < log.position
    if isinstance(result, Exception):
        with pytest.raises(StepFailedError):
            agent.executions.once("pay", never)
    else:
        assert agent.executions.once("pay", never) == result
    assert log.durable == log.position
    assert len(work.calls) == 1


def test_who_is_stopped_before_the_call_leaves_the_step_as_it_was(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    def stopped(key: str, **options: Any) -> None:
        interrupt_syncs(fs)
        with pytest.raises(KeyboardInterrupt):
            agent.executions.once(key, never, "other", **options)
        fs.on_operation = None

    stopped("new")
    assert agent.executions.get("step/new") is None
    assert agent.executions.once("new", Work(1)) == 1

    with pytest.raises(ValueError, match="no"):
        agent.executions.once("failed", Work(ValueError("no")))
    before = found(agent, "failed")
    stopped("failed", retry_failed=True)
    assert found(agent, "failed") == before
    with pytest.raises(StepFailedError):
        agent.executions.once("failed", never)

    with pytest.raises(KeyboardInterrupt):
        agent.executions.once("doubt", Work(KeyboardInterrupt()))
    before = found(agent, "doubt")
    stopped("doubt", on_indeterminate="run")
    stopped("doubt", on_indeterminate=lambda _: RUN_AGAIN)
    assert found(agent, "doubt") == before
    with pytest.raises(IndeterminateError):
        agent.executions.once("doubt", never)


def test_a_decision_that_fails_leaves_the_step_as_it_was(agent: AgentStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        agent.executions.once("doubt", Work(KeyboardInterrupt()))
    before = found(agent, "doubt")
    with pytest.raises(ZeroDivisionError):
        agent.executions.once("doubt", never, on_indeterminate=Work(ZeroDivisionError()))
    assert found(agent, "doubt") == before


def strike(
    number: int, function: Callable[[], Any], warm: Callable[[], Any] = lambda: None
) -> bool:
    """Ctrl-C at an instruction of the code of steps; whether there was one of that number.

    Python 3.13 does not trace the instructions of a function's first run: ``warm`` is that run.
    """
    folder = os.path.dirname(claims.__file__)
    seen = 0
    counting = False

    def local(frame: Any, event: str, argument: Any) -> Any:
        nonlocal seen
        if event == "opcode" and counting:
            seen += 1
            if seen == number:
                sys.settrace(None)
                raise KeyboardInterrupt
        return local

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(folder):
            return None
        frame.f_trace_opcodes = True
        return local

    before = sys.gettrace()
    # From Python 3.12 on instructions are traced only if some frame wanted it before.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        warm()
        counting = True
        function()
    except KeyboardInterrupt:
        assert seen == number
    finally:
        sys.settrace(before)
    return seen >= number


def test_ctrl_c_at_any_instruction_leaves_nobody_waiting(agent: AgentStore) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(1, 100_000):
        key, work = f"k{number}", Work(1)
        if not strike(number, lambda: agent.executions.once(key, work)):  # noqa: B023  # at once
            break
        assert claims._claims == {}
        assert claims._held.get() == ()
        execution = agent.executions.get(f"step/{key}")
        if execution is None:
            assert work.calls == []
            assert agent.executions.once(key, Work(2)) == 2
            outcomes["not called"] += 1
        elif execution.status == "success":
            assert agent.executions.once(key, never) == 1
            outcomes["over"] += 1
        else:
            with pytest.raises(IndeterminateError):
                agent.executions.once(key, never)
            outcomes["in doubt"] += 1
    assert min(outcomes.values()) > 10
    assert len(outcomes) == 3, outcomes


def test_a_claim_that_was_half_released_is_released(agent: AgentStore) -> None:
    """Who waits goes on wherever Ctrl-C strikes in the first release, thanks to the second."""
    opening = agent.store.engine.opening
    for number in range(1, 1000):
        claim, done = Claim(opening, "pay"), threading.Event()
        claim.take()

        def wait(done: threading.Event = done) -> None:
            other = Claim(opening, "pay")
            other.take()
            other.release()
            other.release()
            done.set()

        thread = threading.Thread(target=wait)
        thread.start()
        while not claim._wakes:
            done.wait(0.001)
        struck = strike(number, claim.release, Claim(opening, "other").release)
        claim.release()
        assert done.wait(30)
        thread.join()
        if not struck:
            break
    assert number > 10


# -- keys ----------------------------------------------------------------------------------------


class Key(str, Enum):  # noqa: UP042  # its str() is another text
    PAY = "pay"
    A = "a"


def test_a_key_is_plain_text(agent: AgentStore) -> None:
    for key in (7, None, b"pay", ("pay",)):
        with pytest.raises(TypeError, match="a step's key is a str"):
            agent.executions.once(key, never)  # type: ignore[arg-type]  # refused
    assert agent.executions.once(Key.PAY, Work(1)) == 1
    assert agent.executions.once("pay", never) == 1
    assert found(agent, "pay").output_data == 1

    with pytest.raises(WalkvError, match="calls itself"):
        agent.executions.once("a", lambda: agent.executions.once(Key.A, never))


def keyed(function: Any, *args: Any, **kwargs: Any) -> str:
    function.__qualname__ = "charge"
    return step_key(function, None, args, kwargs)


def test_what_makes_the_key_of_a_call() -> None:
    def one(order: Any) -> None: ...

    def more(order: Any, currency: str = "EUR", *rest: Any, **extra: Any) -> None: ...

    def turned(currency: str = "EUR", *, order: Any) -> None: ...

    sentinel = object()

    def strange(order: Any, logger: Any = sentinel) -> None: ...

    order = {"id": 1, "lines": [{"a": 1, "b": (2, {"x": 3, "y": 4})}]}
    other = {"lines": [{"b": (2, {"y": 4, "x": 3}), "a": 1}], "id": 1}
    key = keyed(one, order)
    assert key.startswith(f"{__name__}.charge/")
    for same in (
        keyed(one, other),
        keyed(one, order=order),
        keyed(more, order),
        keyed(more, order, "EUR"),
        keyed(more, order, currency="EUR"),
        keyed(turned, order=order),
        keyed(strange, order),
        keyed(strange, order, sentinel),
    ):
        assert same == key
    different = [
        key,
        keyed(one, [order]),
        keyed(one, (order,)),
        keyed(one, {**order, "id": 1.0}),
        keyed(one, {**order, "id": True}),
        keyed(more, order, "USD"),
        keyed(more, order, "EUR", "x"),
        keyed(more, order, x="x"),
        keyed(strange, order, None),
    ]
    assert len(set(different)) == len(different)
    deep: Any = []
    deep.append({"deep": deep})
    for bad in (deep, object(), {"x": object()}):
        with pytest.raises(CodecError):
            keyed(one, bad)


# -- what goes wrong while an error is noted -----------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Shy:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_an_error_without_words_is_noted_and_raised(agent: AgentStore) -> None:
    error = Mute()
    with pytest.raises(Mute) as caught:
        agent.executions.once("pay", Work(error))
    assert caught.value is error
    with pytest.raises(StepFailedError, match=r"its str\(\) raised ZeroDivisionError"):
        agent.executions.once("pay", never)
    assert agent.executions.once("shy", Work(5), Shy()) == 5
    assert found(agent, "shy").input_data == "<dict: its repr() raised ZeroDivisionError>"


def test_an_error_is_raised_though_it_could_not_be_noted(
    fs: SimulatedFileSystem, caplog: pytest.LogCaptureFixture
) -> None:
    agent = AgentStore("/a.walkv", filesystem=fs)
    error = ValueError("the real one")

    def act() -> None:
        agent.close()
        raise error

    with pytest.raises(ValueError, match="the real one") as caught:
        agent.executions.once("pay", act)
    assert caught.value is error
    (note,) = error.__notes__
    assert note.startswith("walkv: step 'pay': how it ended could not be noted: ClosedError")
    assert "step 'pay'" in caplog.text
    agent = AgentStore("/a.walkv", filesystem=fs)

    def unstorable() -> Any:
        agent.close()
        return object()

    with pytest.raises(CodecError, match="cannot be stored") as unkept:
        agent.executions.once("bad", unstorable)
    assert "ClosedError" in unkept.value.__notes__[0]
    assert claims._claims == {}


def test_a_record_that_is_no_step_is_not_taken_for_one(agent: AgentStore) -> None:
    """Such a record can only be of code that did not refuse it."""
    agent.executions.log(tool_name="x", execution_id="other")
    table = agent.executions.table
    data = agent.store.get(table.records + table.packed_key("other"))
    assert data is not None
    agent.store.put(table.records + table.packed_key("step/pay"), data.replace(b"other", b"s/pay"))
    with pytest.raises(WalkvError, match="is no step but a tool_call"):
        agent.executions.once("pay", never)
    agent.store.delete(table.records + table.packed_key("step/pay"))


# -- two at once ---------------------------------------------------------------------------------


class Arrivals:
    """Lets a function wait until so many others have come for its step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.left = count
        self.all_there = threading.Event()
        self.lock = threading.Lock()
        real = Claim._other

        def other(claim: Claim) -> Claim | None:
            held = real(claim)
            if held is not None:
                with self.lock:
                    self.left -= 1
                    if not self.left:
                        self.all_there.set()
            return held

        monkeypatch.setattr(Claim, "_other", other)

    def wait(self) -> None:
        assert self.all_there.wait(30)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_with_one_key_call_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    others = Arrivals(monkeypatch, 7)
    with AgentStore(tmp_path / "a") as agent:
        calls: list[int] = []
        outcomes: list[Any] = []

        def act() -> int:
            calls.append(1)
            others.wait()
            if fails:
                raise ZeroDivisionError
            return 42

        def work() -> None:
            try:
                outcomes.append(agent.executions.once("pay", act))
            except Exception as error:  # noqa: BLE001  # looked at below
                outcomes.append(type(error))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert calls == [1]
        expected = [ZeroDivisionError, *[StepFailedError] * 7] if fails else [42] * 8
        assert Counter(outcomes) == Counter(expected)


def test_who_comes_while_it_fails_may_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = Arrivals(monkeypatch, 1)
    with AgentStore(tmp_path / "a") as agent:
        results: list[Any] = []

        def first() -> None:
            others.wait()
            raise ZeroDivisionError

        def work() -> None:
            results.append(agent.executions.once("pay", lambda: 2, retry_failed=True))

        began = threading.Event()

        def fail() -> None:
            began.set()
            first()

        def begin() -> None:
            with pytest.raises(ZeroDivisionError):
                agent.executions.once("pay", fail)

        threads = [threading.Thread(target=begin), threading.Thread(target=work)]
        threads[0].start()
        assert began.wait(30)
        threads[1].start()
        for thread in threads:
            thread.join()
        assert results == [2]


def test_keys_and_stores_do_not_wait_for_each_other(fs: SimulatedFileSystem) -> None:
    other = AgentStore("/b.walkv", filesystem=fs)
    with AgentStore("/a.walkv", filesystem=fs) as agent:

        def act() -> Any:
            return [other.executions.once("pay", Work(1)), agent.executions.once("pay2", Work(2))]

        assert agent.executions.once("pay", act) == [1, 2]
    other.close()


# -- decorators ----------------------------------------------------------------------------------


def test_a_step_with_a_key_of_its_arguments(agent: AgentStore) -> None:
    calls: list[Any] = []

    @agent.step(key="charge/{order_id}/{currency}")
    def charge(order_id: int, amount: int, currency: str = "EUR") -> int:
        """Charge it."""
        calls.append((order_id, amount, currency))
        return amount

    assert charge(1, 100) == 100
    assert charge(1, 500) == 100
    assert charge(order_id=1, amount=7, currency="EUR") == 100
    assert charge(2, 5, currency="USD") == 5
    assert calls == [(1, 100, "EUR"), (2, 5, "USD")]
    assert (charge.__name__, charge.__doc__) == ("charge", "Charge it.")
    assert found(agent, "charge/1/EUR").tool_name == charge.__qualname__
    with pytest.raises(TypeError):
        charge()
    assert agent.executions.count() == 2


def test_a_step_with_a_key_of_all_arguments(agent: AgentStore) -> None:
    calls: list[Any] = []

    @agent.step
    def send(*to: str, body: Any = "", **headers: Any) -> int:
        calls.append(to)
        return len(calls)

    assert send("ada", body={"a": [1]}, x=1, y={"n": 2}) == 1
    # The same call, however it is written.
    assert send("ada", y={"n": 2}, x=1, body={"a": [1]}) == 1
    assert send("ada", body={"a": [2]}, x=1, y={"n": 2}) == 2
    assert send("bob", body={"a": [1]}, x=1, y={"n": 2}) == 3
    assert send("ada") == 4
    assert send("ada", body="") == 4
    assert send("ada", body={"b", "a", "c"}) == send("ada", body={"c", "b", "a"}) == 5
    with pytest.raises(CodecError):
        send(agent)

    @agent.step()
    def other(*to: str, body: Any = "", **headers: Any) -> int:
        return 0

    assert other("ada") == 0
    assert len(calls) == 5


def test_a_step_with_options(agent: AgentStore) -> None:
    results: list[Any] = [KeyboardInterrupt(), 7]

    @agent.step(key="x", on_indeterminate="run", sync=walkv.WriteThrough())
    def act() -> int:
        result = results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    with pytest.raises(KeyboardInterrupt):
        act()
    assert act() == act() == 7

    @agent.step(retry_failed=True)
    def fails(name: str) -> int:
        raise ValueError(name)

    for _ in range(2):
        with pytest.raises(ValueError, match="ada"):
            fails("ada")


def test_a_key_of_arguments_is_the_same_in_every_process(tmp_path: Path) -> None:
    """The order of a set of strings is not."""
    program = """
import walkv, sys
with walkv.AgentStore(sys.argv[1]) as agent:
    @agent.step
    def tag(names, **more):
        return len(agent.executions.scan())
    print(tag({"a", "b", "c", "d", "e", "f", "g"}, z=frozenset("hijklmn"), y={"o": {"p", "q"}}))
"""
    out = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, str(tmp_path / "a")],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        out.append(done.stdout)
    assert out == ["1\n", "1\n"]


# -- tasks ---------------------------------------------------------------------------------------


def run(test: Callable[[], Any]) -> None:
    """Run a test in a fresh event loop that gives up rather than hang."""
    asyncio.run(asyncio.wait_for(test(), 60))
    assert claims._claims == {}


def test_tasks_run_functions_and_coroutines(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            once = agent.executions.once

            async def later(number: int, add: int = 0) -> int:
                await asyncio.sleep(0)
                return number + add

            assert await once("later", later, 3, add=4) == 7
            assert await once("later", never) == 7
            assert await once("now", Work(5)) == 5
            assert await once("now", later, 1) == 5
            with pytest.raises(ValueError, match="no"):
                await once("fails", Work(ValueError("no")))
            with pytest.raises(StepFailedError):
                await once("fails", never)
            assert await once("fails", later, 1, retry_failed=True) == 1
            with pytest.raises(CodecError):
                await once("bad", Work(agent))
            with pytest.raises(StepFailedError):
                await once("bad", never)
            with pytest.raises(WalkvError, match="inside a batch"):
                async with agent.batch():
                    await once("in batch", never)
            with pytest.raises(ValueError, match="WriteBack"):
                await once("soft", never, sync=walkv.WriteBack())

            async def outer() -> Any:
                with pytest.raises(WalkvError, match="calls itself"):
                    await once("outer", never)
                return await once("inner", later, 1)

            assert await once("outer", outer) == 1
        with AgentStore(tmp_path / "a") as after:
            assert after.executions.once("later", never) == 7

    run(test)


def test_tasks_find_out_what_happened(fs: SimulatedFileSystem) -> None:
    machine = begun_and_killed(fs)

    async def test() -> None:
        async def again(execution: Execution) -> Any:
            await asyncio.sleep(0)
            return RUN_AGAIN

        async def told(execution: Execution) -> Any:
            return execution.input_data["args"]

        for recover, result in [(again, 9), (told, [100]), (Work("sync"), "sync"), ("run", 9)]:
            async with AsyncAgentStore("/a.walkv", filesystem=machine.after_kill()) as agent:
                with pytest.raises(IndeterminateError):
                    await agent.executions.once("pay", never)
                work = Work(9)
                assert await agent.executions.once("pay", work, on_indeterminate=recover) == result
                assert len(work.calls) == (result == 9)

    run(test)


def test_tasks_with_one_key_call_it_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            calls: list[int] = []
            release = asyncio.Event()

            async def act() -> int:
                calls.append(1)
                await release.wait()
                return 42

            tasks = [
                asyncio.create_task(agent.executions.once("pay", act, on_indeterminate="run"))
                for _ in range(50)
            ]
            while not calls:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            # Who gives up waiting does not stop the others.
            tasks[30].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[30]
            release.set()
            del tasks[30]
            assert await asyncio.gather(*tasks) == [42] * 49
            assert calls == [1]

    run(test)


def test_a_thread_and_a_task_with_one_key_call_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walkv.open(tmp_path / "a") as store, AgentStore(store) as agent:
        others = Arrivals(monkeypatch, 1)
        began = threading.Event()
        results: list[Any] = []

        def act() -> int:
            began.set()
            others.wait()
            return 42

        thread = threading.Thread(target=lambda: results.append(agent.executions.once("pay", act)))
        thread.start()
        assert began.wait(30)

        async def test() -> None:
            async with AsyncAgentStore(store) as tasks:
                assert await tasks.executions.once("pay", never) == 42

        run(test)
        thread.join()
        assert results == [42]


def test_a_cancelled_task_leaves_it_indeterminate(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            began = asyncio.Event()

            async def act() -> None:
                began.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(agent.executions.once("pay", act))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(IndeterminateError, match="cancelled"):
                await agent.executions.once("pay", never)
            assert await agent.executions.once("pay", Work(1), on_indeterminate="run") == 1

    run(test)


def test_who_is_cancelled_while_the_result_is_noted_keeps_the_step_until_it_is(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            lock = agent.store.as_sync().engine.commit_lock
            loop = asyncio.get_running_loop()

            def act() -> int:
                # From here on another commit takes its time, so the result is noted by a thread.
                lock.acquire()
                loop.call_soon(task.cancel)
                return 42

            task = asyncio.create_task(agent.executions.once("pay", act))
            try:
                while not lock.locked():
                    await asyncio.sleep(0)
                for _ in range(50):
                    await asyncio.sleep(0)
                assert not task.done()
            finally:
                lock.release()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await agent.executions.once("pay", never, on_indeterminate="run") == 42

    run(test)


class Gate:
    """A hook under which syncs of the log wait until they are let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, operation: str, path: str) -> None:
        if operation == "sync_data" and path.endswith(".wal"):
            self.entered.set()
            self.open.wait(30)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)


def test_a_cancelled_task_keeps_the_step_until_its_result_is_durable(tmp_path: Path) -> None:
    fs, gate = HookedFileSystem(), Gate()

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a", filesystem=fs) as agent:
            log = agent.store.as_sync().engine.write_log

            def act() -> int:
                fs.hook = gate
                return 42

            task = asyncio.create_task(agent.executions.once("pay", act))
            await gate.reached()
            task.cancel()
            other = asyncio.create_task(agent.executions.once("pay", never))
            for _ in range(50):
                await asyncio.sleep(0)
            assert not task.done()
            assert not other.done()
            gate.open.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await other == 42
            assert log.durable == log.position

    try:
        run(test)
    finally:
        gate.open.set()


@pytest.mark.parametrize("argument", ["small", "large" * 50_000])
def test_a_task_that_is_cancelled_before_the_call_takes_its_intent_back(
    tmp_path: Path, argument: str
) -> None:
    fs, gate = HookedFileSystem(), Gate()

    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a", filesystem=fs) as agent:
            await agent.executions.once("first", Work())
            fs.hook = gate
            task = asyncio.create_task(agent.executions.once("pay", never, argument))
            await gate.reached()
            assert await agent.executions.exists("step/pay")
            # It need not wait for the disk.
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not await agent.executions.exists("step/pay")
            gate.open.set()
            assert await agent.executions.once("pay", Work(1), argument) == 1

    try:
        run(test)
    finally:
        gate.open.set()


def test_what_a_failing_call_has_committed_is_acknowledged(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            log = agent.store.as_sync().engine.write_log
            for key, result in (("small", object()), ("large", ["x" * 100_000, object()])):
                with pytest.raises(CodecError):
                    await agent.executions.once(key, Work(result))
                assert log.durable == log.position
                assert (await agent.executions.get(f"step/{key}")).status == "failed"

    run(test)


def test_a_step_that_waits_for_itself_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        with walkv.open(tmp_path / "a") as store, AgentStore(store) as threads:
            async with AsyncAgentStore(store) as agent:
                once = agent.executions.once
                later: list[asyncio.Task[Any]] = []

                async def gather() -> Any:
                    with pytest.raises(WalkvError, match="would wait for itself"):
                        await asyncio.gather(once("outer", never))
                    with pytest.raises(WalkvError, match="would wait for itself"):
                        await asyncio.to_thread(threads.executions.once, "outer", never)
                    return await asyncio.gather(once("one", Work(1)), once("two", Work(2)))

                assert await once("outer", gather) == [1, 2]
                release = asyncio.Event()

                async def again() -> Any:
                    await release.wait()
                    return await once("spawns", never)

                async def spawn() -> int:
                    later.append(asyncio.create_task(again()))
                    return 5

                # A task that goes on after the step is not inside of it any more.
                assert await once("spawns", spawn) == 5
                release.set()
                assert await later[0] == 5

                async def slow() -> int:
                    # In the loop's thread, of another task: nothing would ever go on.
                    task = contextvars.Context().run(asyncio.create_task, beside())
                    await task
                    return 3

                async def beside() -> None:
                    with pytest.raises(WalkvError, match="would stop the loop"):
                        threads.executions.once("slow", never)

                assert await once("slow", slow) == 3

    run(test)


def test_tasks_raise_an_error_though_it_could_not_be_noted(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:

            async def act() -> None:
                await agent.close()
                raise ValueError("the real one")

            with pytest.raises(ValueError, match="the real one") as caught:
                await agent.executions.once("pay", act)
            assert "ClosedError" in caught.value.__notes__[0]

    run(test)


def test_steps_of_tasks_by_decorator(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            calls: list[Any] = []

            @agent.step(key="charge/{order_id}")
            async def charge(order_id: int, amount: int) -> int:
                """Charge it."""
                calls.append(order_id)
                return amount

            @agent.step
            async def send(to: str) -> str:
                calls.append(to)
                return to

            assert await charge(1, 100) == await charge(1, 200) == 100
            assert await asyncio.gather(*(send("ada") for _ in range(20))) == ["ada"] * 20
            assert calls == [1, "ada"]
            assert charge.__doc__ == "Charge it."

    run(test)


# -- real processes, really killed ---------------------------------------------------------------

NAMES = ("a", "b", "c")


class Program:
    """Three steps that each append a line to a file, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.walkv"
        self.effects = folder / "effects"
        self.asked = folder / "asked"
        self.results = folder / "results"

    def lines(self, file: Path) -> list[str]:
        return file.read_text().split() if file.exists() else []

    def note(self, file: Path, line: str) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{line}\n".encode())
        os.fsync(descriptor)
        os.close(descriptor)

    def act(self, name: str) -> str:
        self.note(self.effects, name)
        return f"{name}-done"

    def recover(self, execution: Execution) -> Any:
        name = execution.input_data["args"][0]
        self.note(self.asked, name)
        return f"{name}-done" if name in self.lines(self.effects) else RUN_AGAIN

    def main(self, kill_at: int | None, threads: bool) -> None:
        def before(call: Call) -> None:
            if call.number == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        fs = FaultyFileSystem(threads=threads)
        fs.before = before
        with AgentStore(self.path, filesystem=fs) as agent:
            for name in NAMES:
                result = agent.executions.once(name, self.act, name, on_indeterminate=self.recover)
                assert result == f"{name}-done"
        self.results.write_text("all done")

    def run(self, kill_at: int | None, *, threads: bool = False) -> bool:
        """Run it, in a process that is killed at a call to the disk; whether it was."""
        pid = os.fork()
        if not pid:
            code = 1
            try:
                self.main(kill_at, threads)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.WEXITSTATUS(status) == 0
        return False

    def statuses(self) -> dict[str, str]:
        """What the store knows of the steps; writes nothing."""
        try:
            with AgentStore(self.path, read_only=True) as reader:
                return {
                    each.execution_id.partition("/")[2]: each.status
                    for each in reader.executions.scan()
                }
        except FileNotFoundError:
            return {}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_every_call_to_the_disk(tmp_path: Path) -> None:
    doubts: Counter[tuple[tuple[str, ...], int]] = Counter()
    for kill_at in range(100):
        (tmp_path / str(kill_at)).mkdir()
        program = Program(tmp_path / str(kill_at))
        killed = program.run(kill_at)
        statuses = program.statuses()
        effects = program.lines(program.effects)
        finished = [name for name, status in statuses.items() if status == "success"]
        doubtful = [name for name, status in statuses.items() if status == "running"]
        assert len(doubtful) <= 1
        assert finished == list(NAMES[: len(finished)])
        # Nothing was done that is not known to have been begun.
        assert effects in (finished, finished + doubtful)
        doubts[tuple(doubtful), len(effects) - len(finished)] += 1
        if not killed:
            break
        assert not program.run(None)
        assert program.results.exists()
        assert program.lines(program.effects) == list(NAMES)
        assert program.lines(program.asked) == doubtful
        assert program.statuses() == dict.fromkeys(NAMES, "success")
        assert not program.run(None)
        assert program.lines(program.effects) == list(NAMES)
    else:
        raise AssertionError("the program makes more calls than expected")
    # Each step was killed before and after its effect, and some runs between the steps.
    expected = {((name,), done) for name in NAMES for done in (0, 1)}
    assert set(doubts) == {((), 0), *expected}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("threads", [False, True])
def test_killed_again_and_again(tmp_path: Path, threads: bool) -> None:
    program = Program(tmp_path)
    rng = Random(1)
    runs = 0
    while program.run(rng.randrange(10, 60), threads=threads):
        runs += 1
        assert runs < 200
    assert program.lines(program.effects) == list(NAMES)
    assert program.statuses() == dict.fromkeys(NAMES, "success")
