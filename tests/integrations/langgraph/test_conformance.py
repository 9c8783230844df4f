"""The published conformance suite of LangGraph, and nothing of it left out.

The suite itself calls a saver "FULL" that lacks whole capabilities. Here each one it knows must be
detected and each of its tests must have passed, through the asynchronous methods, which the suite
calls, and through the synchronous ones.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import pkgutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, spec, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.checkpoint.conformance.report import CapabilityReport
from langgraph.checkpoint.memory import InMemorySaver

import walkv
from walkv.integrations.langgraph import WalkvSaver

Saver = BaseCheckpointSaver[Any]
Opening = Callable[[Path], AsyncIterator[Saver]]

METHODS = ("get_tuple", "list", "put", "put_writes", "delete_thread", "delete_for_runs")
METHODS += ("copy_thread", "prune", "get_delta_channel_history")


class Synchronous(BaseCheckpointSaver[Any]):
    """The synchronous methods of a saver, under the names of the asynchronous ones."""

    def __init__(self, saver: Saver) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def aget_tuple(self, *args: Any, **options: Any) -> Any:
        return self.saver.get_tuple(*args, **options)

    async def alist(self, *args: Any, **options: Any) -> Any:
        for found in self.saver.list(*args, **options):
            yield found

    async def aput(self, *args: Any, **options: Any) -> Any:
        return self.saver.put(*args, **options)

    async def aput_writes(self, *args: Any, **options: Any) -> None:
        self.saver.put_writes(*args, **options)

    async def adelete_thread(self, *args: Any, **options: Any) -> None:
        self.saver.delete_thread(*args, **options)

    async def adelete_for_runs(self, *args: Any, **options: Any) -> None:
        self.saver.delete_for_runs(*args, **options)

    async def acopy_thread(self, *args: Any, **options: Any) -> None:
        self.saver.copy_thread(*args, **options)

    async def aprune(self, *args: Any, **options: Any) -> None:
        self.saver.prune(*args, **options)


async def at_a_path(path: Path) -> AsyncIterator[Saver]:
    with WalkvSaver(path) as saver:
        yield saver


async def from_a_connection_string(path: Path) -> AsyncIterator[Saver]:
    async with WalkvSaver.from_conn_string(str(path)) as saver:
        yield saver


async def in_an_open_store(path: Path) -> AsyncIterator[Saver]:
    with walkv.open(path) as store, WalkvSaver(store) as saver:
        yield saver


async def in_an_agent_store(path: Path) -> AsyncIterator[Saver]:
    with walkv.AgentStore(path) as agent, WalkvSaver(agent) as saver:
        yield saver


async def through_synchronous_methods(path: Path) -> AsyncIterator[Saver]:
    with WalkvSaver.from_conn_string(str(path)) as saver:
        yield Synchronous(saver)


OPENINGS: list[Opening] = [
    at_a_path,
    from_a_connection_string,
    in_an_open_store,
    in_an_agent_store,
    through_synchronous_methods,
]


def validated(opening: Opening, directory: Path) -> CapabilityReport:
    """What the suite says; each capability gets a store of its own."""
    numbers = itertools.count()

    @checkpointer_test(name=opening.__name__)
    async def fresh() -> AsyncIterator[Saver]:
        async for saver in opening(directory / f"{next(numbers)}.walkv"):
            yield saver

    return asyncio.run(validate(fresh))


def specifications() -> dict[str, int]:
    """How many tests the installed suite has, by the names of its modules."""
    found = {}
    for module in pkgutil.iter_modules(spec.__path__):
        text = importlib.import_module(f"{spec.__name__}.{module.name}")
        own = [f for f in vars(text).values() if inspect.iscoroutinefunction(f)]
        names = {f.__name__ for f in own if f.__module__ == text.__name__}
        found[module.name.removeprefix("test_")] = sum(n.startswith("test_") for n in names)
    return found


def shortcomings(report: CapabilityReport) -> list[str]:
    """Everything that keeps a report from being a pass."""
    wanted = specifications()
    found = [f"{name}: no report" for name in wanted.keys() - report.results.keys()]
    for name, result in report.results.items():
        if not result.detected:
            found.append(f"{name}: not detected")
        elif result.passed is not True or result.tests_failed or result.tests_skipped:
            found.append(f"{name}: not passed, {result.tests_skipped} skipped")
        elif result.tests_passed != wanted.get(name):
            found.append(f"{name}: {result.tests_passed} of {wanted.get(name)} tests ran")
        found += [f"{name}: {failure}" for failure in result.failures]
    return found


def test_the_suite_has_a_specification_for_every_capability() -> None:
    counts = specifications()
    assert counts.keys() == {capability.value for capability in Capability}
    assert min(counts.values()) > 3


@pytest.mark.parametrize("opening", OPENINGS, ids=lambda opening: opening.__name__)
def test_every_capability_is_detected_and_passed(opening: Opening, tmp_path: Path) -> None:
    found = shortcomings(validated(opening, tmp_path))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [*METHODS, *(f"a{name}" for name in METHODS)])
def test_every_method_is_its_own(name: str) -> None:
    assert getattr(WalkvSaver, name) is not getattr(BaseCheckpointSaver, name)


async def in_memory(path: Path) -> AsyncIterator[Saver]:
    yield InMemorySaver()


async def in_memory_through_synchronous_methods(path: Path) -> AsyncIterator[Saver]:
    yield Synchronous(InMemorySaver())


class Forgetful(WalkvSaver):
    """A saver that loses the second write of a task."""

    async def aput_writes(self, config: Any, writes: Any, *rest: Any, **options: Any) -> None:
        await super().aput_writes(config, writes[:1], *rest, **options)


async def forgetful(path: Path) -> AsyncIterator[Saver]:
    with Forgetful(path) as saver:
        yield saver


def test_a_saver_that_lacks_capabilities_is_refused(tmp_path: Path) -> None:
    report = validated(in_memory, tmp_path)
    assert report.conformance_level() == "FULL"
    assert shortcomings(report) == [
        "delete_for_runs: not detected",
        "copy_thread: not detected",
        "prune: not detected",
    ]


def test_a_saver_that_lacks_them_behind_the_adapter_is_refused(tmp_path: Path) -> None:
    found = shortcomings(validated(in_memory_through_synchronous_methods, tmp_path))
    assert {line.partition(":")[0] for line in found} == {"delete_for_runs", "copy_thread", "prune"}


def test_a_saver_that_loses_a_write_is_refused(tmp_path: Path) -> None:
    found = shortcomings(validated(forgetful, tmp_path))
    assert "put_writes: not passed, 0 skipped" in found
    assert any(line.startswith("put_writes: test_put_writes_multiple_writes") for line in found)
