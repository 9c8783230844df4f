"""Configurations: one in force for each type and name, always; and plain settings."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

import walkv
from walkv import AgentStore, AsyncAgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.namespaces.configurations import ConfigType, Configuration
from walkv.testing import SimulatedFileSystem

ROLE: ConfigType = "role_config"


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


def create(agent: AgentStore, config_id: str, name: str = "coder", **options: Any) -> Configuration:
    return agent.configurations.create(
        ROLE, name, {"of": config_id}, config_id=config_id, **options
    )


def in_force(agent: AgentStore) -> dict[tuple[str, str], list[str]]:
    """Every active configuration by type and name, found without an index."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in agent.configurations.scan():
        if each.is_active:
            found.setdefault((each.config_type, each.name), []).append(each.config_id)
    return found


# -- which one is in force -----------------------------------------------------------------------


def test_the_newest_is_in_force_until_another_is_activated(
    agent: AgentStore, fs: SimulatedFileSystem
) -> None:
    first = create(agent, "c1")
    assert agent.configurations.get_active(ROLE, "coder") == first
    fs.clock.advance(1)
    second = create(agent, "c2", version="2", created_by="ada")
    assert agent.configurations.get_active(ROLE, "coder") == second
    before = agent.configurations.get("c1")
    assert before == replace(first, is_active=False, updated_at=second.created_at)
    third = create(agent, "c3", is_active=False)
    assert agent.configurations.get_active(ROLE, "coder") == second
    fs.clock.advance(1)
    again = agent.configurations.activate("c1")
    assert again.updated_at == first.created_at + timedelta(seconds=2)
    assert agent.configurations.get_active(ROLE, "coder") == again
    assert in_force(agent) == {(ROLE, "coder"): ["c1"]}
    assert agent.configurations.activate("c1").is_active
    agent.configurations.update("c1", is_active=False)
    assert agent.configurations.get_active(ROLE, "coder") is None
    assert agent.configurations.list(ROLE, is_active=None)[2] == third


def test_types_and_names_have_one_each(agent: AgentStore) -> None:
    names = ["a", "a\0", "a\0b", "ab", ""]
    for config_type in ("role_config", "system_config", "user_config"):
        for name in names:
            for n in range(2):
                agent.configurations.create(config_type, name, {"n": n})  # type: ignore[arg-type]
    assert set(Counter(map(len, in_force(agent).values())).items()) == {(1, 15)}
    for config_type in ("role_config", "system_config", "user_config"):
        for name in names:
            found = agent.configurations.get_active(config_type, name)  # type: ignore[arg-type]
            assert found is not None
            assert (found.config_type, found.name, found.content) == (config_type, name, {"n": 1})
    assert agent.configurations.get_active("user_config", "b") is None


@pytest.mark.parametrize(
    "write",
    [
        lambda c, made: c.put(made),
        lambda c, made: c.add(replace(made, config_id="c9")),
        lambda c, made: c.put_many([made, replace(made, config_id="c8"), made]),
        lambda c, made: c.update("c2", is_active=True),
        lambda c, made: c.update("c3", name="coder"),
        lambda c, made: c.update("c3", config_type="role_config", name="coder", is_active=True),
        lambda c, made: c.put(made, ttl_seconds=1000),
    ],
)
def test_every_way_to_write_keeps_it_so(
    agent: AgentStore, write: Callable[[Any, Configuration], object]
) -> None:
    create(agent, "c1")
    made = create(agent, "c2", is_active=False)
    create(agent, "c3", name="other")
    write(agent.configurations, replace(made, is_active=True))
    assert [len(each) for each in in_force(agent).values()] in ([1], [1, 1])
    assert "c1" not in in_force(agent)[ROLE, "coder"]
    active = agent.configurations.get_active(ROLE, "coder")
    assert active is not None
    assert in_force(agent)[ROLE, "coder"] == [active.config_id]


def test_within_a_batch_too(agent: AgentStore) -> None:
    with agent.batch():
        for n in range(5):
            create(agent, f"c{n}")
            active = agent.configurations.get_active(ROLE, "coder")
            assert active is not None
            assert active.config_id == f"c{n}"
        agent.configurations.activate("c2")
    assert in_force(agent) == {(ROLE, "coder"): ["c2"]}


def test_what_cannot_be_done(agent: AgentStore) -> None:
    create(agent, "c1")
    before = dict(agent.store.scan())
    with pytest.raises(RecordExistsError):
        create(agent, "c1", name="other")
    with pytest.raises(RecordNotFoundError):
        agent.configurations.activate("c2")
    with pytest.raises(CodecError, match=r"configurations\.config_type"):
        agent.configurations.create("old", "x", {})  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=r"configurations\.content"):
        agent.configurations.create(ROLE, "coder", {"f": print})
    assert dict(agent.store.scan()) == before


def test_lists(agent: AgentStore) -> None:
    create(agent, "c1")
    create(agent, "c2")
    agent.configurations.create("user_config", "ada", {}, config_id="c3")

    def listed(*arguments: Any, **options: Any) -> list[str]:
        return sorted(c.config_id for c in agent.configurations.list(*arguments, **options))

    assert listed() == ["c2", "c3"]
    assert listed(ROLE) == ["c2"]
    assert listed(ROLE, is_active=False) == ["c1"]
    assert listed(ROLE, is_active=None) == ["c1", "c2"]
    assert listed(None, None) == ["c1", "c2", "c3"]


def test_indexes_and_policy(agent: AgentStore) -> None:
    query = agent.configurations.query
    plan = query(config_type=ROLE, name="coder", is_active=True).explain()
    assert (plan.index, plan.filtered) == ("config_type,name,is_active", ())
    assert query(config_type=ROLE, name="coder").explain().index == "config_type,name,is_active"
    plan = query(is_active=True, config_type=ROLE).explain()
    assert (plan.index, plan.filtered) == ("is_active,config_type", ())
    assert agent.configurations.sync == walkv.WriteThrough()
    assert agent.configurations.settings.sync == walkv.WriteThrough()


# -- many at once, and crashes -------------------------------------------------------------------


def test_sixteen_threads_activate_different_ones(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a", policies={"configurations": walkv.WriteBack()}) as agent:
        for n in range(16):
            create(agent, f"c{n}")
        stop = threading.Event()
        seen: list[int] = []

        def watch() -> None:
            while not stop.is_set():
                with agent.store.view() as view:
                    active = 0
                    for _, data in view.scan(agent.configurations.table.records):
                        active += agent.configurations._record(data).is_active
                    seen.append(active)

        watcher = threading.Thread(target=watch)
        watcher.start()
        barrier = threading.Barrier(16)

        def work(n: int) -> None:
            barrier.wait()
            for turn in range(15):
                found = agent.configurations.activate(f"c{(n + turn) % 16}")
                assert found.is_active

        workers = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stop.set()
        watcher.join()
        assert set(seen) == {1}
        assert [len(each) for each in in_force(agent).values()] == [1]
        assert agent.verify() == []


def test_tasks_activate_different_ones(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            for n in range(10):
                await agent.configurations.create(ROLE, "coder", {"n": n}, config_id=f"c{n}")
            await asyncio.gather(*(agent.configurations.activate(f"c{n}") for n in range(10)))
            assert len(await agent.configurations.list(ROLE)) == 1
            await asyncio.gather(*(agent.configurations.set(f"k{n}", n) for n in range(10)))
            assert await agent.configurations.all() == {f"k{n}": n for n in range(10)}
            assert await agent.configurations.setting("k3") == 3
            assert await agent.configurations.setting("k99", "none") == "none"
            assert await agent.configurations.unset("k3")
            assert await agent.verify() == []

    asyncio.run(asyncio.wait_for(test(), 60))


def test_after_a_crash_one_is_in_force(fs: SimulatedFileSystem) -> None:
    agent = AgentStore("/a.walkv", filesystem=fs)
    create(agent, "c0")
    returned = ["c0"]
    seen: set[str] = set()

    def crash(operation: str, path: str) -> None:
        for disk in fs.crash_states(Random(fs.operation_count)):
            after = SimulatedFileSystem.after_power_failure(disk)
            with AgentStore("/a.walkv", filesystem=after) as found:
                assert found.verify() == []
                (active,) = in_force(found)[ROLE, "coder"]
                assert active in (returned[-1], under_way)
                seen.add(active)

    under_way = "c0"
    fs.on_operation = crash
    for n in range(1, 4):
        under_way = f"c{n}"
        create(agent, under_way)
        returned.append(under_way)
    agent.store.compact()
    for n in (0, 2, 1):
        under_way = f"c{n}"
        agent.configurations.activate(under_way)
        returned.append(under_way)
    fs.on_operation = None
    agent.close()
    assert seen == {"c0", "c1", "c2", "c3"}


# -- settings ------------------------------------------------------------------------------------


def test_settings(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    configurations = agent.configurations
    assert configurations.all() == {}
    assert configurations.setting("theme") is None
    assert configurations.setting("theme", "dark") == "dark"
    configurations.set("theme", "light", "how it looks")
    configurations.set("limits", {"tokens": 100, "models": ("a", "b")})
    configurations.set("nothing", None)
    assert configurations.setting("theme", "dark") == "light"
    assert configurations.setting("nothing", "default") is None
    fs.clock.advance(1)
    configurations.set("theme", "blue")
    found = configurations.settings.get("theme")
    assert found is not None
    assert (found.value, found.description) == ("blue", "how it looks")
    assert found.updated_at == configurations.now()
    configurations.set("theme", "blue", "")
    assert configurations.settings.get("theme").description == ""  # type: ignore[union-attr]
    assert configurations.all() == {
        "limits": {"tokens": 100, "models": ("a", "b")},
        "nothing": None,
        "theme": "blue",
    }
    assert configurations.unset("theme")
    assert not configurations.unset("theme")
    assert configurations.setting("theme") is None
    with pytest.raises(CodecError, match=r"settings\.value"):
        configurations.set("theme", object())
    with pytest.raises(CodecError, match=r"settings\.key"):
        configurations.set(7, 1)  # type: ignore[arg-type]
    # A configuration of that name is something else.
    assert configurations.get("limits") is None
