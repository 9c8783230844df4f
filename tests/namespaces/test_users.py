"""Users: usage that is exact, and secrets that nobody sees who did not ask."""

from __future__ import annotations

import asyncio
import logging
import pprint
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

import walkv
from walkv import (
    AgentStore,
    AsyncAgentStore,
    CodecError,
    ConflictError,
    LimitError,
    RecordExistsError,
    RecordNotFoundError,
    limits,
)
from walkv.namespaces.schema import MASK
from walkv.namespaces.users import User
from walkv.testing import SimulatedFileSystem

SECRET = "sk-do-not-show-this"
KEYS = {"openai": SECRET}


@pytest.fixture
def fs() -> SimulatedFileSystem:
    return SimulatedFileSystem()


@pytest.fixture
def agent(fs: SimulatedFileSystem) -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=fs) as opened:
        yield opened
        assert opened.verify() == []


# -- records -------------------------------------------------------------------------------------


def test_a_user(agent: AgentStore, fs: SimulatedFileSystem) -> None:
    made = agent.users.create("ada", {"theme": "dark"}, KEYS)
    assert made == agent.users.get("ada")
    assert made.api_keys == KEYS
    assert made.usage_stats == {"task_count": 0, "total_tokens": 0}
    fs.clock.advance(1)
    changed = agent.users.update_preferences("ada", {"lang": "en"})
    assert (changed.preferences, changed.updated_at) == ({"lang": "en"}, agent.users.now())
    merged = agent.users.update_preferences("ada", {"theme": "light"}, merge=True)
    assert merged.preferences == {"lang": "en", "theme": "light"}
    assert agent.users.update_api_keys("ada", {"b": "2"}, merge=True).api_keys == KEYS | {"b": "2"}
    assert agent.users.update_api_keys("ada", {"c": "3"}).api_keys == {"c": "3"}
    assert agent.users.add_usage("ada", 1, 500) == {"task_count": 1, "total_tokens": 500}
    assert agent.users.add_usage("ada", tokens=20) == {"task_count": 1, "total_tokens": 520}
    assert agent.users.sync == walkv.WriteThrough()


def test_what_cannot_be_done(agent: AgentStore) -> None:
    agent.users.create("ada")
    with pytest.raises(RecordExistsError, match="'ada'"):
        agent.users.create("ada")
    for call in (
        lambda: agent.users.update_preferences("eve", {}),
        lambda: agent.users.update_api_keys("eve", {}),
        lambda: agent.users.add_usage("eve", 1),
    ):
        with pytest.raises(RecordNotFoundError, match="'eve'"):
            call()
    assert agent.users.info("eve") is None


def test_usage_is_exact_with_many_threads(tmp_path: Path) -> None:
    with AgentStore(tmp_path / "a", policies={"users": walkv.WriteBack()}) as agent:
        agent.users.create("ada")

        def work() -> None:
            for n in range(25):
                agent.users.add_usage("ada", task_count=1, tokens=n)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = agent.users.get("ada")
        assert found is not None
        assert found.usage_stats == {"task_count": 400, "total_tokens": 16 * 300}


def test_usage_is_exact_with_many_tasks(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncAgentStore(tmp_path / "a") as agent:
            await agent.users.create("ada", api_keys=KEYS)
            await asyncio.gather(*(agent.users.add_usage("ada", 1, 3) for _ in range(200)))
            found = await agent.users.info("ada")
            assert found["usage_stats"] == {"task_count": 200, "total_tokens": 600}
            assert SECRET not in repr(found) + repr(await agent.users.query().all())

    asyncio.run(asyncio.wait_for(test(), 60))


# -- secrets -------------------------------------------------------------------------------------


def test_secrets_are_shown_to_who_asks_only(agent: AgentStore) -> None:
    agent.users.create("ada", api_keys=KEYS)
    agent.users.create("bob")
    assert agent.users.info("ada")["api_keys"] == MASK  # type: ignore[index]
    assert agent.users.info("ada", secrets=True)["api_keys"] == KEYS  # type: ignore[index]
    assert agent.users.info("bob")["api_keys"] == {}  # type: ignore[index]
    user = agent.users.get("ada")
    assert user is not None
    as_dict = agent.users.table.schema.as_dict
    assert as_dict(user)["api_keys"] == MASK
    assert as_dict(user, secrets=True)["api_keys"] == KEYS
    shown = [
        repr(user),
        str(user),
        f"{user}",
        pprint.pformat(user),
        repr(agent.users.info("ada")),
        repr(agent.users.get_versioned("ada")),
        repr(agent.users.get_many(["ada", "bob"])),
        repr(agent.users.scan()),
        repr(agent.users.query().limit(1).page()),
        repr(agent.users.update_api_keys("ada", KEYS)),
        repr(agent.users.query(api_keys=KEYS).where(api_keys__in=[KEYS])),
        str(agent.users.query(api_keys=KEYS).explain()),
        repr(agent.users),
        repr(agent),
    ]
    assert SECRET not in "".join(shown)
    assert "user_id='ada'" in shown[0]


class Loud:
    """Shows a secret when it is shown, and cannot be stored."""

    def __repr__(self) -> str:
        return SECRET


class LoudDict(dict[str, str]):
    """The same, as what could be stored in part."""

    def __repr__(self) -> str:
        return SECRET


BAD: list[tuple[type[Exception], Callable[[AgentStore], object]]] = [
    (CodecError, lambda a: a.users.create("eve", api_keys=SECRET)),  # type: ignore[arg-type]
    (CodecError, lambda a: a.users.create("eve", api_keys=[SECRET])),  # type: ignore[arg-type]
    (CodecError, lambda a: a.users.create("eve", api_keys={"k": Loud()})),  # type: ignore[dict-item]
    (CodecError, lambda a: a.users.create("eve", api_keys={SECRET: {1: {2: Loud()}}})),  # type: ignore[dict-item]
    (CodecError, lambda a: a.users.create("eve", api_keys={"k": SECRET + "\ud800"})),
    (CodecError, lambda a: a.users.create("eve", api_keys={"k": datetime(1999, 1, 1)})),  # type: ignore[dict-item]
    (CodecError, lambda a: a.users.update_api_keys("ada", SECRET)),  # type: ignore[arg-type]
    (CodecError, lambda a: a.users.update_api_keys("ada", SECRET, merge=True)),  # type: ignore[arg-type]
    (CodecError, lambda a: a.users.update_api_keys("ada", {"k": Loud()}, merge=True)),  # type: ignore[dict-item]
    (CodecError, lambda a: a.users.update("ada", api_keys=SECRET)),
    (CodecError, lambda a: a.users.update("ada", api_keys=LoudDict(k=Loud()))),  # type: ignore[arg-type]
    (CodecError, lambda a: a.users.update("ada", api_key=SECRET)),
    (LimitError, lambda a: a.users.update_api_keys("ada", {"k": SECRET * 1000})),
    (LimitError, lambda a: a.users.update_preferences("ada", {"k": "x" * 20_000})),
    (RecordExistsError, lambda a: a.users.create("ada", api_keys=KEYS)),
    (RecordNotFoundError, lambda a: a.users.update_api_keys("eve", KEYS)),
    (ConflictError, lambda a: a.users.update("ada", expected_version=1, api_keys=KEYS)),
    (CodecError, lambda a: a.users.query(api_keys=SECRET).all()),
    (CodecError, lambda a: a.users.query().where(api_keys__in=[SECRET]).all()),
    (CodecError, lambda a: a.users.query().order_by("api_keys").all()),
    (CodecError, lambda a: a.users.query().order_by("-api_keys").page()),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_no_error_shows_a_secret(
    agent: AgentStore,
    number: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error, call = BAD[number]
    caplog.set_level(logging.DEBUG)
    agent.users.create("ada", {"theme": "dark"}, KEYS)
    before = agent.users.get("ada")
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 10_000)
    with pytest.raises(error) as caught:
        call(agent)
    shown = "".join(traceback.format_exception(caught.value)[-1:]) + repr(caught.value)
    shown += repr(vars(caught.value)) + str(caught.value)
    # The lines of code in a traceback are those of this test.
    chain = caught.value.__cause__ or caught.value.__context__
    while chain is not None and not caught.value.__suppress_context__:
        shown += str(chain) + repr(chain.args[:1])
        chain = chain.__cause__ or chain.__context__
    assert SECRET not in shown
    assert "1999" not in shown
    assert SECRET not in caplog.text
    assert agent.users.get("ada") == before


def test_no_log_shows_a_secret(fs: SimulatedFileSystem, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    agent = AgentStore("/a.walkv", filesystem=fs)
    agent.users.create("ada", api_keys=KEYS)
    agent.store.compact()
    agent.users.update_api_keys("ada", {"new": SECRET})
    with AgentStore("/a.walkv", filesystem=fs.after_kill()) as found:
        assert found.users.get("ada").api_keys == {"new": SECRET}  # type: ignore[union-attr]
    agent.close()
    assert caplog.records  # of the recovery
    assert SECRET not in caplog.text
    for record in caplog.records:
        assert SECRET not in repr(vars(record))


def test_a_secret_cannot_be_a_key(agent: AgentStore) -> None:
    declaration = walkv.Declaration("keyed", User, key="user_id", indexes=["api_keys"])
    with pytest.raises(TypeError, match="secret"):
        agent.namespace(declaration)
