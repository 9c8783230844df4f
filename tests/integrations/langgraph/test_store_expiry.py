"""Expiry of the items of LangGraph's store, what refreshes it, and who sweeps."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp, TTLConfig

from walkv import AgentStore, ClosedError, CodecError
from walkv.integrations.langgraph.items import Items
from walkv.integrations.langgraph.store import WalkvStore
from walkv.testing import ManualClock, SimulatedFileSystem

NS = ("a", "b")


def items_of(store: WalkvStore) -> Items:
    return store._faces.threads


def names(found: list[Any]) -> list[str]:
    return [item.key for item in found]


# -- expiry ----------------------------------------------------------------------------------------


def expiring(agent: AgentStore, **ttl: Any) -> WalkvStore:
    return WalkvStore(agent, ttl=TTLConfig(**ttl))


def test_what_has_expired_is_there_until_it_is_swept(agent: AgentStore, clock: ManualClock) -> None:
    store = expiring(agent, default_ttl=1, refresh_on_read=False)
    store.put(NS, "default", {})
    store.put(NS, "longer", {}, ttl=2)
    store.put(NS, "forever", {}, ttl=None)
    clock.advance(59)
    assert store.sweep_ttl() == 0
    clock.advance(1)
    assert len(store.search(NS)) == 3
    assert store.get(NS, "default") is not None
    assert store.sweep_ttl() == 1
    assert store.get(NS, "default") is None
    clock.advance(3600)
    assert asyncio.run(store.asweep_ttl()) == 1
    assert names(store.search(NS)) == ["forever"]
    assert store.supports_ttl
    assert store.ttl_config == {"default_ttl": 1, "refresh_on_read": False}
    assert agent.verify() == []


def test_expired_items_can_be_left_out_everywhere(agent: AgentStore, clock: ManualClock) -> None:
    store = expiring(agent, omit_expired=True, refresh_on_read=True)
    embed = {"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]}
    near = WalkvStore(agent, ttl=store.ttl_config, index=embed)  # type: ignore[arg-type]
    near.put(NS, "short", {"n": 1}, ttl=1)
    near.put(NS, "long", {"n": 1}, ttl=2)
    near.put(("only", "short"), "k", {"n": 1}, ttl=1)
    near.put(("only", "mixed"), "k", {"n": 1}, ttl=1)
    near.put(("only", "mixed"), "m", {"n": 1})
    clock.advance(60)
    assert store.get(NS, "short") is None
    assert asyncio.run(store.aget(NS, "short")) is None
    assert store.get(NS, "long") is not None
    assert names(store.search(NS)) == names(near.search(NS, query="x")) == ["long"]
    assert names(store.search(NS, filter={"n": 1}, limit=1)) == ["long"]
    assert store.list_namespaces() == [NS, ("only", "mixed")]
    assert store.list_namespaces(max_depth=1) == [("a",), ("only",)]
    assert len(WalkvStore(agent).list_namespaces()) == 3
    # What was left out was not refreshed.
    assert store.sweep_ttl() == 3


def test_a_read_refreshes(agent: AgentStore, clock: ManualClock) -> None:
    store = expiring(agent, refresh_on_read=True)
    index = {"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]}
    near = WalkvStore(agent, ttl=store.ttl_config, index=index)  # type: ignore[arg-type]
    readers: dict[str, Callable[[str], Any]] = {
        "get": lambda name: store.get(NS, name),
        "aget": lambda name: asyncio.run(store.aget(NS, name)),
        "batch": lambda name: store.batch([GetOp(NS, name), GetOp(NS, "none")]),
        "search": lambda name: store.search((*NS, name)),
        "filter": lambda name: store.search((*NS, name), filter={"n": 1}),
        "asearch": lambda name: asyncio.run(store.asearch((*NS, name))),
        "query": lambda name: near.search((*NS, name), query="x"),
    }
    refused: dict[str, Callable[[str], Any]] = {
        "plain": lambda name: None,
        "get off": lambda name: store.get(NS, name, refresh_ttl=False),
        "search off": lambda name: store.search((*NS, name), refresh_ttl=False),
        "list": lambda name: store.list_namespaces(),
        "configured": lambda name: expiring(agent, refresh_on_read=False).get(NS, name),
    }
    for name in {**readers, **refused}:
        near.put(NS, name, {"n": 1}, ttl=1)
        near.put((*NS, name), "k", {"n": 1}, ttl=1)
    before = {name: store.search((*NS, name), refresh_ttl=False) for name in readers}
    clock.advance(40)
    for name, read in {**readers, **refused}.items():
        read(name)
    assert {name: store.search((*NS, name), refresh_ttl=False) for name in readers} == before
    clock.advance(40)
    store.sweep_ttl()
    living = {item.key for item in store.search(NS, limit=100, refresh_ttl=False)}
    spaces = {space[-1] for space in store.list_namespaces() if len(space) == 3}
    assert {"get", "aget", "batch"} <= living
    assert not living & set(refused)
    assert spaces == {"search", "filter", "asearch", "query"}
    # By the letter of the configuration, an operation may say otherwise.
    explicit = expiring(agent, refresh_on_read=False)
    explicit.get(NS, "get", refresh_ttl=True)
    clock.advance(40)
    store.sweep_ttl()
    assert names(store.search(NS, limit=100, refresh_ttl=False)) == ["get"]


def test_a_refresh_is_no_update(agent: AgentStore, clock: ManualClock) -> None:
    store = WalkvStore(agent)
    store.put(NS, "old", {"n": 1}, ttl=1)
    clock.advance(10)
    store.put(NS, "new", {})
    first = store.get(NS, "old")
    clock.advance(10)
    assert store.get(NS, "old") == first
    assert names(store.search(NS)) == ["new", "old"]
    clock.advance(55)
    assert store.sweep_ttl() == 0
    clock.advance(5)
    assert store.sweep_ttl() == 1


def test_what_had_expired_and_is_read_lasts_on(store: WalkvStore, clock: ManualClock) -> None:
    store.put(NS, "k", {}, ttl=1)
    clock.advance(600)
    assert store.get(NS, "k") is not None
    assert store.sweep_ttl() == 0
    clock.advance(60)
    assert store.sweep_ttl() == 1


def test_a_read_that_refreshes_does_not_wait_for_the_disk(
    store: WalkvStore, clock: ManualClock
) -> None:
    log = store.agent.store.engine.write_log
    store.put(NS, "k", {}, ttl=1)
    assert log.durable == log.position
    clock.advance(0.001)
    store.get(NS, "k")
    assert log.durable < log.position


def test_a_put_sets_the_expiry_anew(agent: AgentStore, clock: ManualClock) -> None:
    store = WalkvStore(agent)
    store.put(NS, "a", {}, ttl=1)
    store.put(NS, "b", {}, ttl=1)
    store.put(NS, "c", {})
    clock.advance(30)
    store.put(NS, "a", {})
    store.put(NS, "b", {}, ttl=1)
    store.put(NS, "c", {}, ttl=1)
    clock.advance(59)
    assert store.sweep_ttl() == 0
    clock.advance(1)
    assert store.sweep_ttl() == 2
    assert names(store.search(NS)) == ["a"]


@pytest.mark.parametrize("ttl", [float("nan"), float("inf"), 1e12, "1", -1e12])
def test_a_ttl_that_leads_nowhere_is_refused(store: WalkvStore, ttl: Any) -> None:
    with pytest.raises(CodecError, match="ttl_minutes"):
        store.put(NS, "k", {}, ttl=ttl)
    assert store.get(NS, "k") is None


def test_a_ttl_of_none_at_all(store: WalkvStore) -> None:
    store.put(NS, "now", {}, ttl=0)
    store.put(NS, "past", {}, ttl=-1)
    store.delete(NS, "absent")
    assert store.sweep_ttl() == 2


def test_a_refresh_brings_nothing_back(agent: AgentStore, clock: ManualClock) -> None:
    store = WalkvStore(agent)
    items = items_of(store)
    for name in ("gone", "changed", "kept", "short"):
        store.put(NS, name, {"n": 1}, ttl=10)
    found = [items.item_key(NS, name) for name in ("gone", "changed", "kept", "short", "never")]
    clock.advance(60)
    # Between the read and its refresh.
    store.delete(NS, "gone")
    store.put(NS, "changed", {"n": 2})
    store.put(NS, "short", {"n": 3}, ttl=1)
    items.refresh(found, revive=True)
    assert store.get(NS, "gone") is store.get(NS, "never") is None
    assert [store.get(NS, name, refresh_ttl=False).value for name in ("changed", "short")] == [  # type: ignore[union-attr]
        {"n": 2},
        {"n": 3},
    ]
    clock.advance(60)
    assert store.sweep_ttl() == 1
    clock.advance(60 * 8)
    assert store.sweep_ttl() == 0
    clock.advance(60)
    items.refresh(found, revive=False)  # what has expired meanwhile was left out
    assert store.sweep_ttl() == 1
    assert names(store.search(NS)) == ["changed"]


def test_a_clock_that_is_set_back_takes_no_time_from_an_item(
    store: WalkvStore, clock: ManualClock
) -> None:
    store.put(NS, "k", {}, ttl=10)
    clock.advance(-300)
    store.get(NS, "k")
    clock.advance(300 + 599)
    assert store.sweep_ttl() == 0


def test_reads_that_refresh_race_with_puts_and_deletes(store: WalkvStore) -> None:
    """Whatever is deleted last is gone, and what was put last is there."""
    done = threading.Event()
    store.put(NS, "k", {"n": -1}, ttl=10)

    def read() -> None:
        while not done.is_set():
            store.get(NS, "k")
            store.search(NS)

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read) for _ in range(2)]
        try:
            for number in range(300):
                store.put(NS, "k", {"n": number}, ttl=10)
                item = store.get(NS, "k")
                assert item is not None
                assert item.value == {"n": number}
                store.delete(NS, "k")
                assert store.get(NS, "k") is None
        finally:
            done.set()
        for each in reading:
            each.result()
    assert store.search(()) == []
    assert store.agent.verify() == []


def test_a_sweep_is_made_of_bounded_commits(agent: AgentStore, clock: ManualClock) -> None:
    store = WalkvStore(agent)
    store.batch([PutOp(NS, str(number), {}, ttl=1) for number in range(2500)])
    clock.advance(60)
    sequences = []
    transact = type(items_of(store).access.kv).transact

    def noted(kv: Any, function: Any, sync: Any) -> Any:
        done = transact(kv, function, sync)
        sequences.append(len(list(agent.store.scan(items_of(store).table.records, keys_only=True))))
        return done

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(items_of(store).access.kv), "transact", noted)
        assert store.sweep_ttl() == 2500
    assert sequences == [1500, 500, 0]


# -- the sweeper -----------------------------------------------------------------------------------


class Sweeping(WalkvStore):
    """Says when it was swept, and may fail."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.swept = threading.Semaphore(0)
        self.fails = 0
        super().__init__(*args, **kwargs)

    def sweep_ttl(self) -> int:
        try:
            if self.fails:
                self.fails -= 1
                raise OSError("no sweep")
            return super().sweep_ttl()
        finally:
            self.swept.release()


def test_the_sweeper_sweeps_until_it_is_stopped(agent: AgentStore, clock: ManualClock) -> None:
    store = Sweeping(agent, ttl={"sweep_interval_minutes": 1e-4})
    store.put(NS, "k", {}, ttl=1)
    future = store.start_ttl_sweeper()
    assert store.start_ttl_sweeper() is future
    store.swept.acquire()
    clock.advance(60)
    while store.get(NS, "k", refresh_ttl=False) is not None:
        store.swept.acquire()
    assert not future.done()
    assert store.stop_ttl_sweeper()
    assert future.result() is None
    assert store.stop_ttl_sweeper(0.1)
    again = store.start_ttl_sweeper(1e-4)
    assert again is not future
    store.swept.acquire()
    assert again.cancel()
    assert store.stop_ttl_sweeper()
    assert again.cancelled()


def test_the_sweeper_goes_on_after_a_failure(
    agent: AgentStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = Sweeping(agent)
    store.fails = 2
    with caplog.at_level(logging.WARNING, "walkv"):
        future = store.start_ttl_sweeper(1e-4)
        for _ in range(4):
            store.swept.acquire()
        assert not future.done()
        store.stop_ttl_sweeper()
    assert [record.message for record in caplog.records] == [
        "<walkv.WalkvStore '/a.walkv' open>: a sweep has failed, and is tried again"
    ] * 2


def test_the_sweeper_ends_with_its_store(fs: SimulatedFileSystem) -> None:
    agent = AgentStore("/a.walkv", filesystem=fs)
    closed = WalkvStore(agent)
    future = closed.start_ttl_sweeper(1e-4)
    closed.close()
    assert future.done()
    with pytest.raises(ClosedError):
        closed.start_ttl_sweeper()

    left = WalkvStore(agent)
    reference, forgotten = weakref.ref(left), left.start_ttl_sweeper(60)
    del left
    gc.collect()
    assert reference() is None
    assert forgotten.result(timeout=60) is None

    below = WalkvStore(agent)
    future = below.start_ttl_sweeper(1e-4)
    agent.close()
    assert future.result(timeout=60) is None
    assert all(thread.daemon for thread in threading.enumerate() if "sweeper" in thread.name)


def test_an_interval_is_above_zero(store: WalkvStore) -> None:
    with pytest.raises(ValueError, match="above 0 minutes"):
        store.start_ttl_sweeper(-1)
