"""Adapters and the store they are given: who opens it, who shares it, and who closes it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

import walkv
from tests.integrations.langgraph.handmade import (
    config,
    entries,
    ids,
    kept_by,
    left_behind,
    put,
    step,
    text,
    values_of,
    writes_of,
)
from tests.unit.hooked import HookedFileSystem
from walkv import (
    AgentStore,
    ClosedError,
    FormatError,
    LockedError,
    ReadOnlyError,
    StoreFailedError,
    WriteBack,
)
from walkv.integrations import connection
from walkv.integrations.connection import Adapter, Connection
from walkv.integrations.langgraph import WalkvCache, WalkvSaver
from walkv.namespaces.checkpoints import Checkpoints
from walkv.testing import Fault, FaultyFileSystem, SimulatedFileSystem

BIG = text(0, 20_000)


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    before = dict(connection._opened)
    yield
    assert connection._opened == before


def is_counted(path: str | Path) -> bool:
    """Whether adapters have a store open."""
    return os.path.realpath(path) in connection._opened


def is_free(path: Path) -> bool:
    """Whether nobody has a store open."""
    try:
        walkv.open(path).close()
    except LockedError:
        return False
    return True


# -- sharing ---------------------------------------------------------------------------------------


def test_adapters_at_one_path_share_the_store(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first, second, cache = WalkvSaver(path), WalkvSaver(str(path)), WalkvCache[Any](path)
    assert first.agent is second.agent is cache.agent
    put(first, "1", {"a": 1})
    assert values_of(second) == {"a": 1}
    cache.set({(("n",), "k"): (1, None)})
    for number, adapter in enumerate((second, first, cache)):
        assert not adapter.closed
        assert not is_free(path)
        adapter.close()
        adapter.close()  # twice is once
        assert adapter.closed
        assert adapter.agent.closed == (number == 2)
    assert is_free(path)
    with WalkvSaver(path) as again:
        assert values_of(again) == {"a": 1}


@pytest.mark.parametrize("way", ["link", "link above", "relative", "dots", "str", "slash"])
def test_a_path_is_one_path_however_it_is_written(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "s"
    path.parent.mkdir()
    with WalkvSaver(path) as saver:
        os.symlink(path, tmp_path / "link")
        os.symlink(path.parent, tmp_path / "above")
        monkeypatch.chdir(tmp_path / "folder")
        written: dict[str, Any] = {
            "link": tmp_path / "link",
            "link above": tmp_path / "above" / "s",
            "relative": "s",
            "dots": tmp_path / "folder" / ".." / "folder" / "s",
            "str": str(path),
            "slash": f"{path}/",
        }
        with WalkvSaver(written[way]) as other:
            assert other.agent is saver.agent
        assert not saver.closed


def test_a_store_that_was_given_open_is_left_open(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        with WalkvSaver(store) as saver:
            put(saver, "1", {"a": 1})
        assert not store.closed
        other = WalkvSaver(AgentStore(store))
        assert values_of(other) == {"a": 1}
        # Nobody else can have it by its path.
        with pytest.raises(LockedError):
            WalkvSaver(tmp_path / "s")
    assert other.closed
    with AgentStore(tmp_path / "s") as agent:
        saver = WalkvSaver(agent)
        assert saver.agent is agent
        saver.close()
        assert not agent.closed
        assert agent.users.get("ada") is None
        assert values_of(WalkvSaver(agent)) == {"a": 1}
        assert "langgraph_checkpoints" in agent.by_name


def test_options_are_those_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with WalkvSaver(path, cache_bytes=0, sync=WriteBack()) as saver:
        WalkvSaver(path).close()  # none are those that it has
        for options in ({"cache_bytes": 1}, {"cache_bytes": 0, "memtable_bytes": 1 << 20}):
            with pytest.raises(TypeError, match=r"open already, with \{'cache_bytes': 0\}"):
                WalkvSaver(path, **options)
        with WalkvSaver(path, cache_bytes=0) as other:
            assert other.agent is saver.agent
        assert not saver.closed  # those who were refused do not count
    assert is_free(path)
    with walkv.open(path) as store:
        with pytest.raises(TypeError, match="cache_bytes is for a path"):
            WalkvSaver(store, cache_bytes=0)
        assert not store.closed


def test_a_store_that_was_closed_under_its_adapters_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = WalkvSaver(path)
    old.agent.close()
    assert old.closed
    with pytest.raises(ClosedError):
        put(old, "1", {"a": 1})
    with WalkvSaver(path) as new:
        assert new.agent is not old.agent
        old.close()
        put(new, "1", {"a": 1})
    assert is_free(path)


def test_a_process_does_not_use_what_it_was_forked_with(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with WalkvSaver(path):
        opened = connection._opened[os.path.realpath(path)]
        opened._pid += 1  # as a child sees it
        with pytest.raises(LockedError):
            WalkvSaver(path)
        opened._pid -= 1
        with WalkvSaver(path):
            pass
        assert not is_free(path)


def test_many_threads_open_and_close(tmp_path: Path) -> None:
    path = tmp_path / "s"
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(8):
                with WalkvSaver(path, sync=WriteBack()) as saver:
                    put(saver, str(n), {"a": n}, thread_id=str(number))
                    assert values_of(saver, config(str(number))) == {"a": n}
        except BaseException as error:  # noqa: BLE001  # told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert is_free(path)


# -- what cannot be opened -------------------------------------------------------------------------


BAD: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "policy": ({"sync": "always"}, TypeError),
    "option": ({"speed": "high"}, TypeError),
    "both": ({"serde": JsonPlusSerializer(), "allow": [Path]}, TypeError),
    "missing": ({"create": False}, (FormatError, FileNotFoundError)),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_made_leaves_nothing_open(tmp_path: Path, bad: str) -> None:
    options, error = BAD[bad]
    path = tmp_path / "s"
    with pytest.raises(error):
        WalkvSaver(path, **options)
    assert not is_counted(path)
    assert is_free(path)
    with pytest.raises(error), WalkvSaver.from_conn_string(path / "other", **options):
        pass

    async def entered() -> None:
        async with WalkvSaver.from_conn_string(path / "other", **options):
            pass

    with pytest.raises(error):
        asyncio.run(entered())
    # Nor does it let go of what others have.
    with WalkvSaver(path) as saver:
        with pytest.raises(TypeError):
            WalkvSaver(path, sync="always")  # type: ignore[arg-type]
        assert not saver.closed
        put(saver, "1", {"a": 1})
    assert is_free(path)


def test_another_declaration_of_the_namespace_is_refused(tmp_path: Path) -> None:
    declared = kept_by(WalkvSaver(AgentStore("/a", filesystem=SimulatedFileSystem()))).declaration
    path = tmp_path / "s"
    with AgentStore(path) as agent:
        other = walkv.Declaration(declared.name, declared.record, key=("thread_id", "number"))
        agent.namespace(other)
        with pytest.raises(TypeError, match="declared otherwise"):
            WalkvSaver(agent)
        assert not agent.closed
    with pytest.raises(FormatError):
        WalkvSaver(path)
    assert not is_counted(path)
    assert is_free(path)


def test_a_locked_store_is_told(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s"):
        with pytest.raises(LockedError):
            WalkvSaver(tmp_path / "s")
        with WalkvSaver(tmp_path / "s", read_only=True) as reading:
            assert reading.get_tuple(config()) is None
    assert is_free(tmp_path / "s")


# -- blocks ----------------------------------------------------------------------------------------


def test_a_block_opens_and_closes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with WalkvSaver.from_conn_string(str(path), allow=[Path], sync=WriteBack()) as saver:
        assert type(saver) is WalkvSaver
        put(saver, "1", {"a": 1})
    with pytest.raises(ClosedError, match="when the block that opened it is left"):
        saver.get_tuple(config())
    assert is_free(path)

    async def test() -> None:
        async with WalkvSaver.from_conn_string(path) as saver:
            await saver.aput(*step("2", {"a": 2}, parent="1"))
        with pytest.raises(ClosedError, match="when the block that opened it is left"):
            await saver.aget_tuple(config())
        assert is_free(path)
        async with WalkvSaver(path) as saver:
            found = await saver.aget_tuple(config())
            assert found is not None
            assert found.checkpoint["channel_values"] == {"a": 2}
        assert is_free(path)

    asyncio.run(test())
    with pytest.raises(ZeroDivisionError), WalkvSaver.from_conn_string(path):
        1 / 0  # noqa: B018
    assert is_free(path)
    with pytest.raises(ZeroDivisionError), WalkvSaver(path):
        1 / 0  # noqa: B018
    assert is_free(path)
    with WalkvCache[Any].from_conn_string(path) as cache:
        assert isinstance(cache, WalkvCache)


def test_an_opening_that_is_not_entered_opens_nothing(tmp_path: Path) -> None:
    WalkvSaver.from_conn_string(tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("opening", [False, True])
def test_what_a_block_raises_comes_before_what_closing_raises(
    asynchronous: bool, opening: bool
) -> None:
    def opened() -> Any:
        make: Callable[..., Any] = WalkvSaver.from_conn_string if opening else WalkvSaver
        return make("/s", filesystem=fs, sync=WriteBack())

    def fill(saver: WalkvSaver, error: type[Exception] | None) -> None:
        put(saver, "1", {"a": 1})
        fs.fault = Fault(lambda call: call.operation == "sync_data")
        if error is not None:
            raise error

    def inside(error: type[Exception] | None) -> None:
        with opened() as saver:
            fill(saver, error)

    async def inside_task(error: type[Exception] | None) -> None:
        async with opened() as saver:
            fill(saver, error)

    for error in (None, ZeroDivisionError):
        fs = FaultyFileSystem(SimulatedFileSystem())
        with pytest.raises(error or StoreFailedError):
            asyncio.run(inside_task(error)) if asynchronous else inside(error)
        assert not is_counted("/s")


# -- an opening that is cancelled ------------------------------------------------------------------


class Gate:
    """A hook under which a store is not opened until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, operation: str, path: str) -> None:
        if operation == "list":
            self.entered.set()
            self.open.wait(30)


@pytest.mark.parametrize("times", [1, 3])
def test_an_opening_that_is_cancelled_leaves_nothing_open(tmp_path: Path, times: int) -> None:
    path = tmp_path / "s"
    walkv.open(path).close()
    gate = Gate()
    fs = HookedFileSystem(hook=gate)

    async def enter() -> None:
        async with WalkvSaver.from_conn_string(path, filesystem=fs):
            raise AssertionError("entered")

    async def test() -> None:
        task = asyncio.create_task(enter())
        await asyncio.to_thread(gate.entered.wait, 30)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        threading.Timer(0.01, gate.open.set).start()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())  # and the loop ends with it
    assert not is_counted(path)
    assert is_free(path)


def test_an_opening_that_fails_while_it_is_cancelled(tmp_path: Path) -> None:
    async def test() -> None:
        opening = WalkvSaver.from_conn_string(tmp_path / "s", create=False)
        task = asyncio.ensure_future(opening.__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())


def test_one_opening_that_is_cancelled_does_not_close_that_of_another(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def test() -> None:
        async with WalkvSaver.from_conn_string(path) as saver:
            task = asyncio.ensure_future(WalkvSaver.from_conn_string(path).__aenter__())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not saver.closed
            await saver.aput(*step("1", {"a": 1}))
        assert is_free(path)

    asyncio.run(test())


# -- after closing ---------------------------------------------------------------------------------

CALLS: dict[str, Callable[[WalkvSaver], Any]] = {
    "put": lambda s: s.put(*step("2", {"a": 1})),
    "put_writes": lambda s: s.put_writes(config("t", "1"), [("a", 1)], "task"),
    "get": lambda s: s.get(config()),
    "get_tuple": lambda s: s.get_tuple(config()),
    "list": lambda s: list(s.list(config())),
    "history": lambda s: s.get_delta_channel_history(config=config(), channels=["a"]),
    "delete_thread": lambda s: s.delete_thread("t"),
    "delete_for_runs": lambda s: s.delete_for_runs(["r"]),
    "copy_thread": lambda s: s.copy_thread("t", "u"),
    "prune": lambda s: s.prune(["t"]),
    "threads": lambda s: s.threads(),
    "usage": lambda s: s.usage(),
}


async def listed(saver: WalkvSaver) -> list[Any]:
    return [each async for each in saver.alist(config())]


TASKS: dict[str, Callable[[WalkvSaver], Any]] = {
    "put": lambda s: s.aput(*step("2", {"a": 1})),
    "put large": lambda s: s.aput(*step("2", {"a": text(1, 2_000_000)})),
    "put_writes": lambda s: s.aput_writes(config("t", "1"), [("a", 1)], "task"),
    "get": lambda s: s.aget(config()),
    "get_tuple": lambda s: s.aget_tuple(config()),
    "list": listed,
    "history": lambda s: s.aget_delta_channel_history(config=config(), channels=["a"]),
    "delete_thread": lambda s: s.adelete_thread("t"),
    "delete_for_runs": lambda s: s.adelete_for_runs(["r"]),
    "copy_thread": lambda s: s.acopy_thread("t", "u"),
    "prune": lambda s: s.aprune(["t"]),
    "threads": lambda s: s.athreads(),
    "usage": lambda s: s.ausage(),
}


@pytest.mark.parametrize("others", [True, False])
def test_nothing_is_done_after_closing(tmp_path: Path, others: bool) -> None:
    with walkv.open(tmp_path / "s") as store:
        saver = WalkvSaver(store)
        put(saver, "1", {"a": 1})
        clone = saver.with_allowlist([("a", "b")])
        before = dict(store.scan())
        saver.close()
        if not others:
            store.close()
        for each in (saver, clone):
            assert isinstance(each, WalkvSaver)
            for call in CALLS.values():
                with pytest.raises(ClosedError):
                    call(each)
            for task in TASKS.values():
                with pytest.raises(ClosedError):
                    asyncio.run(task(each))
        if others:
            assert dict(store.scan()) == before
            assert values_of(WalkvSaver(store)) == {"a": 1}


def test_closing_in_the_loop_that_uses_it(tmp_path: Path) -> None:
    async def test() -> None:
        saver = WalkvSaver(tmp_path / "s")
        await saver.aput(*step("1", {"a": 1}))
        saver.close()
        for task in TASKS.values():
            with pytest.raises(ClosedError):
                await task(saver)
        await saver.aclose()

    asyncio.run(test())
    assert is_free(tmp_path / "s")


def test_a_connection_alone(tmp_path: Path) -> None:
    first = Connection(tmp_path / "s")
    second = Connection(tmp_path / "s")
    assert first.agent is second.agent
    first.check_open()
    first.close()
    assert first.closed
    assert not second.closed
    with pytest.raises(ClosedError):
        first.check_open()
    with pytest.raises(TypeError):
        Adapter(tmp_path / "s")
    second.close()


# -- read-only -------------------------------------------------------------------------------------


def filled(saver: WalkvSaver) -> None:
    for n in range(12):
        where = put(saver, f"{n:02}", {"a": BIG, "n": n}, parent=f"{n - 1:02}" if n else None)
        saver.put_writes(where, [("x", n), ("y", BIG)], "task")


def test_a_store_that_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with WalkvSaver(path, sync=WriteBack()) as writing:
        filled(writing)
        expected = list(writing.list(config()))
        for opened in (
            lambda: WalkvSaver(AgentStore(path, read_only=True)),
            lambda: WalkvSaver(walkv.open(path, read_only=True)),
        ):
            saver = opened()
            assert list(saver.list(config())) == expected
            assert asyncio.run(listed(saver)) == expected
            assert saver.get_tuple(config()) == expected[0]
            assert asyncio.run(saver.aget_tuple(config("t", "03"))) == expected[-4]
            assert asyncio.run(saver.athreads()) == ["t"]
            assert saver.usage().checkpoint_count == 12
            found = saver.get_delta_channel_history(config=config(), channels=["x"])
            assert len(found["x"]["writes"]) == 11
            for name in ("put", "put_writes", "delete_thread", "copy_thread", "prune"):
                with pytest.raises(ReadOnlyError):
                    CALLS[name](saver)
                with pytest.raises(ReadOnlyError):
                    asyncio.run(TASKS[name](saver))
            # What the writer has done since is seen after a refresh.
            put(writing, "99", {"a": 9})
            saver.agent.store.refresh()
            assert values_of(saver) == {"a": 9}
            kept_by(writing).delete("t", "99")
            saver.agent.store.close()


def test_a_store_without_checkpoints_that_is_only_read(tmp_path: Path) -> None:
    walkv.open(tmp_path / "s").close()
    with WalkvSaver(tmp_path / "s", read_only=True) as saver:
        assert saver.get_tuple(config()) is None
        assert list(saver.list(None)) == []
        assert asyncio.run(listed(saver)) == []
        assert saver.threads() == []
        assert saver.usage() == (0, 0, 0, 0)
        with pytest.raises(ReadOnlyError):
            put(saver, "1", {"a": 1})


# -- in a batch ------------------------------------------------------------------------------------


@pytest.fixture
def agent() -> Iterator[AgentStore]:
    with AgentStore("/a", filesystem=SimulatedFileSystem()) as opened:
        yield opened
        assert opened.verify() == []


def test_a_put_is_a_part_of_a_batch(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    put(saver, "1", {"a": BIG})
    before = agent.store.stats().last_sequence
    with agent.batch():
        agent.users.create("ada")
        put(saver, "2", {"a": BIG + "2"}, parent="1")
        saver.put_writes(config("t", "2"), [("x", 1), ("y", BIG)], "task")
        put(saver, "3", {"a": BIG + "3"}, parent="2")
        # Inside it is there, outside it is not.
        assert values_of(saver) == {"a": BIG + "3"}
        assert ids(saver.list(config())) == ["3", "2", "1"]
        assert writes_of(saver, config("t", "2")) == [("task", "x", 1), ("task", "y", BIG)]
        seen: list[Any] = []
        other = threading.Thread(target=lambda: seen.append(ids(saver.list(config()))))
        other.start()
        other.join()
        assert seen == [["1"]]
        assert asyncio.run(listed(saver))[0].checkpoint["id"] == "1"
        assert agent.store.stats().last_sequence == before
    assert agent.users.get("ada") is not None
    assert ids(saver.list(config())) == ["3", "2", "1"]


class _Undone(Exception):
    pass


@pytest.mark.parametrize("name", ["put", "put_writes", "copy_thread", "prune", "delete_thread"])
def test_a_batch_that_is_undone_leaves_nothing(agent: AgentStore, name: str) -> None:
    saver = WalkvSaver(agent)
    filled(saver)
    before = entries(saver)
    expected = list(saver.list(config()))
    with suppress(_Undone), agent.batch():
        agent.users.create("ada")
        CALLS[name](saver)
        put(saver, "new", {"a": BIG + "new"}, parent="11")
        put(saver, "1", {"a": BIG}, thread_id="other")
        raise _Undone
    assert entries(saver) == before
    assert agent.users.get("ada") is None
    assert list(saver.list(config())) == expected
    # What was numbered then is numbered again now.
    put(saver, "new", {"a": BIG + "other"}, parent="11")
    put(saver, "1", {"a": BIG + "third"}, thread_id="third")
    for each in (saver, WalkvSaver(agent)):
        assert values_of(each) == {"a": BIG + "other"}
        assert values_of(each, config("third")) == {"a": BIG + "third"}
        assert each.get_tuple(config("other")) is None
    for thread_id in ("t", "third"):
        saver.delete_thread(thread_id)
    assert left_behind(saver) == []


def test_savers_and_checkpoints_of_an_agent_do_not_see_each_other(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    assert isinstance(agent.checkpoints, Checkpoints)
    put(saver, "1", {"a": 1})
    agent.checkpoints.put("t", "1", {"own": 1})
    assert values_of(saver) == {"a": 1}
    found = agent.checkpoints.get("t")
    assert found is not None
    assert found.data == {"own": 1}
    saver.delete_thread("t")
    assert agent.checkpoints.threads() == ["t"]
