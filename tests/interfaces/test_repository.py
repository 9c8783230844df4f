"""Repositories and checkpoints: the design's own examples, and what they leave open."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

import walkv
from tests.support import processes
from tests.unit.hooked import HookedFileSystem
from walkv import AgentStore, AsyncAgentStore, CodecError, RecordExistsError, RecordNotFoundError
from walkv.errors import ClosedError, LimitError, LockedError
from walkv.interfaces.repository import (
    AgentConversation,
    AgentMessage,
    BaseCheckpoint,
    BaseRepository,
    ConfigError,
    StoreConfig,
    WalkvCheckpoint,
    WalkvRepository,
    belongs_to,
)
from walkv.namespaces.base import Declaration, Namespace
from walkv.testing import Disk, SimulatedFileSystem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.walkv"


def conversations(path: Any, **options: Any) -> WalkvRepository[AgentConversation]:
    return WalkvRepository(AgentConversation, path, **options)


def messages(path: Any, **options: Any) -> WalkvRepository[AgentMessage]:
    return WalkvRepository(AgentMessage, path, **options)


# -- the design's own example --------------------------------------------------------------------


class ConversationService:
    """As the design has it, to the letter."""

    def __init__(self, repo: BaseRepository[AgentConversation]) -> None:
        self._repo = repo

    async def get_conversation(self, convo_id: str) -> AgentConversation | None:
        return await self._repo.get(convo_id)

    async def create_conversation(
        self, title: str | None = None, metadata: dict[str, Any] | None = None
    ) -> AgentConversation:
        conversation = AgentConversation(id=uuid.uuid4(), title=title, metadata_=metadata)
        return await self._repo.add(conversation)

    async def list_conversations(
        self, limit: int = 100, offset: int = 0
    ) -> list[AgentConversation]:
        return await self._repo.list(limit=limit, offset=offset)

    async def update_conversation(
        self, convo_id: str, title: str | None = None, metadata: dict[str, Any] | None = None
    ) -> AgentConversation | None:
        conversation = await self._repo.get(convo_id)
        if not conversation:
            return None
        if title is not None:
            conversation.title = title
        if metadata is not None:
            conversation.metadata_ = metadata
        return await self._repo.update(conversation)

    async def delete_conversation(self, convo_id: str) -> bool:
        return await self._repo.delete(convo_id)


class Container:
    """What a dependency container makes once, before there is an event loop."""

    def __init__(self) -> None:
        self.checkpoint = WalkvCheckpoint(StoreConfig.from_env())
        self.conversations = WalkvRepository(model_cls=AgentConversation)
        self.service = ConversationService(self.conversations)


@asynccontextmanager
async def lifespan(container: Container) -> AsyncIterator[None]:
    try:
        await container.checkpoint.setup()
        yield
    finally:
        await container.checkpoint.cleanup()
        await container.conversations.close()


def test_the_service_of_the_design(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALKV_PATH", str(path))
    container = Container()

    async def first_life() -> str:
        async with lifespan(container):
            service = container.service
            made = await service.create_conversation("Plans", {"topic": "sea"})
            convo_id = str(made.id)
            assert await service.get_conversation(convo_id) == made
            changed = await service.update_conversation(convo_id, title="Better plans")
            assert changed is not None
            assert (changed.title, changed.metadata_) == ("Better plans", {"topic": "sea"})
            assert await service.list_conversations() == [changed]
            await container.checkpoint.put(convo_id, {"step": 1})
            return convo_id

    async def second_life(convo_id: str) -> None:
        async with lifespan(container):
            service = container.service
            found = await service.get_conversation(convo_id)
            assert found is not None
            assert found.title == "Better plans"
            assert await container.checkpoint.get(convo_id) == {"step": 1}
            assert await service.delete_conversation(convo_id) is True
            assert await service.delete_conversation(convo_id) is False
            assert await service.get_conversation(convo_id) is None
            assert await service.update_conversation(convo_id, title="?") is None

    # Two event loops, as with a server that was stopped and started in one process.
    convo_id = asyncio.run(first_life())
    asyncio.run(second_life(convo_id))
    walkv.open(path).close()


def test_protocols_tell_what_serves_them(path: Path) -> None:
    assert isinstance(conversations(path), BaseRepository)
    assert isinstance(WalkvCheckpoint(path=path), BaseCheckpoint)
    assert not isinstance(WalkvCheckpoint(path=path), BaseRepository)
    assert not isinstance(conversations(path), BaseCheckpoint)


# -- entities ------------------------------------------------------------------------------------


def test_ids_are_uuids_given_also_as_text(path: Path) -> None:
    async def main() -> None:
        async with conversations(path) as repository:
            number = uuid.uuid4()
            made = await repository.add(AgentConversation(id=str(number).upper()))  # type: ignore[arg-type]
            assert made.id == number
            for given in (number, str(number), str(number).upper(), number.hex):
                assert await repository.get(given) == made
                assert await repository.exists(given)
            found = await repository.filter(id=str(number))
            assert found == [made]
            assert type(found[0].id) is uuid.UUID
            # Text that is no UUID is the id of nothing.
            assert await repository.get("nobody") is None
            assert await repository.exists("nobody") is False
            assert await repository.delete("nobody") is False
            assert await repository.filter(id="nobody") == []
            with pytest.raises(CodecError, match=r"agent_conversations\.id"):
                await repository.get(7)
            assert (await repository.add(AgentConversation())).id != number

    asyncio.run(main())


def test_an_entity_is_changed_and_kept(path: Path) -> None:
    async def main() -> None:
        async with conversations(path) as repository:
            entity = AgentConversation(title="one", metadata_={"a": [1]})
            assert (entity.created_at, entity.updated_at) == (None, None)
            assert await repository.add(entity) is entity
            created, updated = entity.created_at, entity.updated_at
            assert created is not None
            assert created == updated
            assert created.tzinfo is UTC
            entity.title = "two"
            assert await repository.update(entity) is entity
            assert entity.created_at == created
            assert entity.updated_at is not None
            assert entity.updated_at > created
            assert await repository.get(entity.id) == entity
            # What nobody keeps stays with who changed it.
            entity.title = "three"
            other = await repository.get(entity.id)
            assert other is not None
            assert other.title == "two"
            # One made anew for an id that is there does not forget when it was added.
            anew = AgentConversation(id=entity.id, title="four")
            await repository.update(anew)
            assert anew.created_at == created
            assert await repository.get(entity.id) == anew

    asyncio.run(main())


def test_a_time_of_adding_that_is_given_stays(path: Path) -> None:
    async def main() -> None:
        long_ago = datetime(2001, 2, 3, tzinfo=UTC)
        async with conversations(path) as repository:
            made = await repository.add(AgentConversation(created_at=long_ago, updated_at=long_ago))
            assert made.created_at == long_ago
            assert made.updated_at is not None
            assert made.updated_at > long_ago

    asyncio.run(main())


def test_lists_are_in_the_order_of_adding_and_pages_meet(path: Path) -> None:
    async def main() -> None:
        async with conversations(path) as repository:
            made = [await repository.add(AgentConversation(title=str(n))) for n in range(25)]
            assert await repository.list() == made
            pages = [await repository.list(limit=10, offset=start) for start in (0, 10, 20, 30)]
            assert [len(page) for page in pages] == [10, 10, 5, 0]
            assert [each for page in pages for each in page] == made
            assert await repository.list(limit=0) == []
            assert await repository.list(limit=None) == made
            with pytest.raises(ValueError, match="limit"):
                await repository.list(limit=-1)
            await repository.add(AgentConversation(created_at=datetime(2001, 1, 1, tzinfo=UTC)))
            assert (await repository.list(limit=1))[0].title is None

    asyncio.run(main())


def test_a_list_without_a_limit_stops_at_a_hundred(path: Path) -> None:
    async def main() -> None:
        async with conversations(path, sync=walkv.WriteBack()) as repository:
            await asyncio.gather(*(repository.add(AgentConversation()) for _ in range(101)))
            assert len(await repository.list()) == 100

    asyncio.run(main())


def test_filters(path: Path) -> None:
    async def main() -> None:
        async with conversations(path) as talks, messages(path) as repository:
            one, two = [await talks.add(AgentConversation()) for _ in range(2)]
            said = [
                await repository.add(
                    AgentMessage(conversation_id=talk.id, role=role, content=f"{number}")
                )
                for number, (talk, role) in enumerate(
                    [(one, "user"), (two, "user"), (one, "assistant"), (one, "user")]
                )
            ]
            assert await repository.filter(conversation_id=one.id) == [said[0], said[2], said[3]]
            assert await repository.filter(conversation_id=str(two.id)) == [said[1]]
            assert await repository.filter(conversation_id=one.id, role="user") == [
                said[0],
                said[3],
            ]
            assert await repository.filter(conversation_id__in=[one.id, str(two.id)]) == said
            assert await repository.filter(created_at__gt=said[1].created_at) == said[2:]
            assert await repository.filter(content__startswith="3") == [said[3]]
            assert await repository.filter(role="nobody") == []
            assert await repository.filter(metadata_=None) == said
            assert await repository.filter() == said
            with pytest.raises(CodecError, match="no such field"):
                await repository.filter(nothing=1)
            with pytest.raises(CodecError, match="no comparison"):
                await repository.filter(role__like="u")

    asyncio.run(main())


def test_a_conversations_messages_are_found_by_an_index(path: Path) -> None:
    async def main() -> None:
        async with AsyncAgentStore(path) as agent:
            async with messages(None, store=agent) as repository:
                await repository.filter(conversation_id=uuid.uuid4())
            query = agent.by_name["agent_messages"].query(conversation_id=str(uuid.uuid4()))
            plan = query.order_by("created_at", "id").explain()
            assert plan.index == "conversation_id,created_at"
            assert not plan.sorted_in_memory
            plan = agent.by_name["agent_messages"].query().order_by("created_at", "id").explain()
            assert plan.index == "created_at"
            assert not plan.sorted_in_memory

    asyncio.run(main())


def test_errors_are_typed_and_write_nothing(path: Path) -> None:
    async def main() -> None:
        async with conversations(path) as talks, messages(path) as repository:
            talk = await talks.add(AgentConversation(title="kept"))
            with pytest.raises(RecordExistsError):
                await talks.add(AgentConversation(id=talk.id, title="other"))
            stranger = AgentConversation(title="nowhere")
            with pytest.raises(RecordNotFoundError):
                await talks.update(stranger)
            assert (stranger.created_at, stranger.updated_at) == (None, None)
            with pytest.raises(LimitError) as too_long:
                await talks.add(AgentConversation(title="x" * 256))
            assert (too_long.value.field, too_long.value.limit, too_long.value.actual) == (
                "title",
                255,
                256,
            )
            talk.title = "y" * 256
            with pytest.raises(LimitError):
                await talks.update(talk)
            with pytest.raises(CodecError, match="AgentMessage"):
                await repository.add(talk)  # type: ignore[arg-type]
            with pytest.raises(CodecError, match="content"):
                await repository.add(
                    AgentMessage(conversation_id=talk.id, role="user", content=b"no")  # type: ignore[arg-type]
                )
            bad_id = AgentConversation()
            bad_id.id = "no uuid"  # type: ignore[assignment]
            with pytest.raises(CodecError, match="no UUID"):
                await talks.add(bad_id)
            with pytest.raises(ValueError, match="UUID"):
                AgentConversation(id="no uuid")  # type: ignore[arg-type]
            found = await talks.list()
            assert [each.title for each in found] == ["kept"]
            assert await repository.list() == []

    asyncio.run(main())


# -- parents and children ------------------------------------------------------------------------


def test_a_message_needs_its_conversation(path: Path) -> None:
    async def main() -> None:
        async with messages(path) as repository, conversations(path) as talks:
            lost = AgentMessage(conversation_id=uuid.uuid4(), role="user", content="?")
            with pytest.raises(RecordNotFoundError, match=r"agent_messages\.conversation_id"):
                await repository.add(lost)
            talk = await talks.add(AgentConversation())
            said = await repository.add(
                AgentMessage(conversation_id=talk.id, role="user", content="!")
            )
            said.conversation_id = uuid.uuid4()
            with pytest.raises(RecordNotFoundError):
                await repository.update(said)
            kept = await repository.list()
            assert [each.conversation_id for each in kept] == [talk.id]

    asyncio.run(main())


def test_a_conversation_goes_with_its_messages(path: Path) -> None:
    async def main() -> None:
        async with conversations(path) as talks, messages(path) as repository:
            one, two = [await talks.add(AgentConversation()) for _ in range(2)]
            for number in range(10):
                for talk in (one, two):
                    await repository.add(
                        AgentMessage(conversation_id=talk.id, role="user", content=f"{number}")
                    )
            assert await talks.delete(one.id) is True
            assert await repository.filter(conversation_id=one.id) == []
            assert len(await repository.filter(conversation_id=two.id)) == 10
            assert await talks.list() == [two]
        async with AsyncAgentStore(path) as agent:
            await messages(None, store=agent).setup()
            assert await agent.verify() == []

    asyncio.run(main())


def test_a_conversation_goes_with_its_messages_also_if_only_its_own_repository_is_there(
    path: Path,
) -> None:
    async def fill() -> uuid.UUID:
        async with conversations(path) as talks, messages(path) as repository:
            talk = await talks.add(AgentConversation())
            await repository.add(AgentMessage(conversation_id=talk.id, role="user", content="x"))
            return talk.id

    async def delete(talk_id: uuid.UUID) -> None:
        async with conversations(path) as talks:
            assert await talks.delete(talk_id)

    async def look() -> None:
        async with messages(path) as repository:
            assert await repository.list() == []

    asyncio.run(delete(asyncio.run(fill())))
    asyncio.run(look())


async def _talk_in(
    fs: SimulatedFileSystem, act: Callable[[AsyncAgentStore], Awaitable[Any]]
) -> Any:
    async with AsyncAgentStore("/agent", filesystem=fs) as agent:
        return await act(agent)


def test_a_power_failure_leaves_a_conversation_with_all_its_messages_or_none() -> None:
    fs = SimulatedFileSystem()
    states: dict[bytes, Disk] = {}

    async def act(agent: AsyncAgentStore) -> None:
        talks, repository = conversations(None, store=agent), messages(None, store=agent)
        talk = await talks.add(AgentConversation())
        for number in range(5):
            await repository.add(
                AgentMessage(conversation_id=talk.id, role="user", content=f"{number}")
            )
        collect("", "")
        fs.on_operation = collect
        assert await talks.delete(talk.id)
        fs.on_operation = None

    def collect(_operation: str, _path: str) -> None:
        for disk in fs.crash_states():
            states.setdefault(disk.digest(), disk)

    async def count(agent: AsyncAgentStore) -> tuple[int, int]:
        talks, repository = conversations(None, store=agent), messages(None, store=agent)
        found = (len(await talks.list()), len(await repository.list()))
        assert await agent.verify() == []
        return found

    asyncio.run(_talk_in(fs, act))
    counts = set()
    for disk in states.values():
        after = SimulatedFileSystem.after_power_failure(disk)
        counts.add(asyncio.run(_talk_in(after, count)))
    assert counts == {(1, 5), (0, 0)}


def test_no_message_outlives_its_conversation_when_both_happen_at_once(path: Path) -> None:
    async def main() -> None:
        async with conversations(path) as talks, messages(path) as repository:
            refused = 0
            for _ in range(10):
                talk = await talks.add(AgentConversation())
                began = asyncio.Event()

                async def speak(talk: AgentConversation, began: asyncio.Event) -> bool:
                    for number in range(20):
                        try:
                            await repository.add(
                                AgentMessage(
                                    conversation_id=talk.id, role="user", content=f"{number}"
                                )
                            )
                        except RecordNotFoundError:
                            return False
                        began.set()
                    return True

                speakers = [asyncio.create_task(speak(talk, began)) for _ in range(8)]
                await began.wait()
                assert await talks.delete(talk.id)
                refused += (await asyncio.gather(*speakers)).count(False)
                assert await repository.filter(conversation_id=talk.id) == []
            assert refused, "no message came too late, so nothing was tested"
            assert await repository.list() == []

    asyncio.run(main())


def test_repositories_take_part_in_a_batch(path: Path) -> None:
    class Enough(Exception):  # not an error
        pass

    async def main() -> None:
        async with AsyncAgentStore(path) as agent:
            talks, repository = conversations(None, store=agent), messages(None, store=agent)
            await talks.setup()
            await repository.setup()
            talk = AgentConversation()
            with suppress(Enough):
                async with agent.batch():
                    await talks.add(talk)
                    await repository.add(
                        AgentMessage(conversation_id=talk.id, role="user", content="x")
                    )
                    raise Enough
            assert await talks.list() == []
            async with agent.batch():
                await talks.add(talk)
                await repository.add(
                    AgentMessage(conversation_id=talk.id, role="user", content="x")
                )
                await agent.sessions.create("s", "ada")
            assert len(await repository.list()) == 1
            async with agent.batch():
                assert await talks.delete(talk.id)
            assert await repository.list() == []
            assert await agent.sessions.exists("s")

    asyncio.run(main())


# -- record types of an application --------------------------------------------------------------


@dataclass
class Note:
    """With a key, an index and defaults of its own."""

    slug: str
    author: str = "nobody"
    tags: list[str] = field(default_factory=list)
    kind: Literal["plan", "fact"] = "fact"
    owner: uuid.UUID | str | None = None
    source: uuid.UUID | None = None
    rating: float | None = None


def test_any_dataclass_with_a_key(path: Path) -> None:
    async def main() -> None:
        repository = WalkvRepository(Note, path, key="slug", indexes=["author"])
        async with repository:
            number = uuid.uuid4()
            note = Note("b", "ada", ["x"], "plan", owner=number, source=number, rating=1.5)
            await repository.add(note)
            await repository.add(Note("a", "bob"))
            found = await repository.get("b")
            assert found is not None
            # What may be text as well comes back as text.
            assert (found.owner, found.source) == (str(number), number)
            assert [each.slug for each in await repository.list()] == ["a", "b"]
            assert [each.slug for each in await repository.filter(author="ada")] == ["b"]
            assert [each.slug for each in await repository.filter(source=number)] == ["b"]
            found.kind = "guess"  # type: ignore[assignment]
            with pytest.raises(CodecError, match="'guess' is not one of"):
                await repository.update(found)
            assert repr(repository) == f"<walkv.WalkvRepository 'note' in {str(path)!r}>"

    asyncio.run(main())
    with AgentStore(path) as agent:
        # The namespace is named after the class, and is one like any other.
        assert any(key.startswith(b"\0note\0") for key in agent.store.scan(keys_only=True))


@dataclass(frozen=True)
class Frozen:
    id: int
    text: str
    created_at: datetime | None = field(default=None, metadata={"auto_now_add": True})


def test_a_frozen_dataclass_is_given_back_anew(path: Path) -> None:
    async def main() -> None:
        async with WalkvRepository(Frozen, path) as repository:
            entity = Frozen(1, "x")
            made = await repository.add(entity)
            assert entity.created_at is None
            assert made.created_at is not None
            assert await repository.get(1) == made
            changed = await repository.update(Frozen(1, "y"))
            assert changed == Frozen(1, "y", made.created_at)

    asyncio.run(main())


def test_names_come_from_classes_and_can_be_given(path: Path) -> None:
    class HTTPCall2Log:
        pass

    async def main() -> None:
        async with AsyncAgentStore(path) as agent:
            one = WalkvRepository(Note, store=agent, key="slug")
            other = WalkvRepository(Note, store=agent, key="slug", namespace="old_notes")
            await one.add(Note("a"))
            assert await other.list() == []
            await other.add(Note("b"))
            assert [each.slug for each in await one.list()] == ["a"]
            assert {"note", "old_notes"} <= set(agent.by_name)
            # The same again is the same; anything else under that name is refused.
            again = WalkvRepository(Note, store=agent, key="slug")
            assert [each.slug for each in await again.list()] == ["a"]
            with pytest.raises(TypeError, match="in use already"):
                await WalkvRepository(Note, store=agent, key="slug", indexes=["author"]).list()
            with pytest.raises(TypeError, match="in use already"):
                await WalkvRepository(Frozen, store=agent, namespace="note").list()
            with pytest.raises(TypeError, match="in use already"):
                await WalkvRepository(Frozen, store=agent, namespace="sessions").list()

    asyncio.run(main())
    made: Any = dataclass(type(HTTPCall2Log.__name__, (), {"__annotations__": {"id": str}}))
    assert "'http_call2_log'" in repr(WalkvRepository(made, path))


def test_what_cannot_be_kept_is_refused_at_once(path: Path) -> None:
    @dataclass
    class Odd:
        id: str
        thing: threading.Thread

    with pytest.raises(TypeError, match=r"odd\.thing"):
        WalkvRepository(dataclass(Odd), path)
    with pytest.raises(TypeError, match="is a dataclass"):
        WalkvRepository(int, path)
    with pytest.raises(TypeError, match="no field 'id'"):
        WalkvRepository(Note, path)
    with pytest.raises(TypeError, match="no field nothing"):
        WalkvRepository(Note, path, key="slug", indexes=["nothing"])
    with pytest.raises(TypeError, match="lower-case"):
        WalkvRepository(Note, path, key="slug", namespace="Old notes")
    with pytest.raises(TypeError, match="in its Meta"):
        WalkvRepository(AgentMessage, path, namespace="said")
    with pytest.raises(TypeError, match="one of path, store and config"):
        WalkvRepository(AgentMessage, path, config=StoreConfig(str(path)))
    with pytest.raises(TypeError, match="a path is given as path="):
        WalkvRepository(AgentMessage, store=str(path))  # type: ignore[arg-type]
    assert not path.exists()


@dataclass
class Team:
    id: str

    class Meta:
        table = "teams"
        indexes = ()


@belongs_to(Team, by="team_id")
@dataclass
class Player:
    id: str
    team_id: str | None


@belongs_to(Player, by="player_id")
@dataclass
class Goal:
    id: int
    player_id: str


def test_grandchildren_go_too_and_a_parent_may_be_none(path: Path) -> None:
    async def main() -> None:
        teams, players, goals = (WalkvRepository(each, path) for each in (Team, Player, Goal))
        async with teams, players, goals:
            await teams.add(Team("reds"))
            await players.add(Player("ada", "reds"))
            await players.add(Player("bob", None))
            await goals.add(Goal(1, "ada"))
            await goals.add(Goal(2, "bob"))
            await teams.delete("reds")
            assert await players.list() == [Player("bob", None)]
            assert await goals.list() == [Goal(2, "bob")]

    asyncio.run(main())


def test_a_type_that_names_no_such_parent_field_is_refused(path: Path) -> None:
    @belongs_to(Note, by="note_id")
    @dataclass
    class Comment:
        id: str

    with pytest.raises(TypeError, match="no field 'note_id'"):
        WalkvRepository(Comment, path)


def test_fields_that_were_added_later_have_their_defaults(path: Path) -> None:
    old: Any = dataclass(type("Page", (), {"__annotations__": {"id": str}, "__module__": __name__}))
    newer: Any = dataclass(
        type(
            "Page",
            (),
            {
                "__annotations__": {
                    "id": str,
                    "text": str,
                    "parts": list,
                    "mark": uuid.UUID,
                    "added_at": datetime | None,
                },
                "__module__": __name__,
                "text": "empty",
                "parts": field(default_factory=list),
                "mark": field(default_factory=lambda: uuid.UUID(int=7)),
                "added_at": field(default=None, metadata={"auto_now_add": True}),
            },
        )
    )

    async def main() -> None:
        async with WalkvRepository(old, path) as repository:
            await repository.add(old("a"))
        async with WalkvRepository(newer, path) as repository:
            await repository.add(newer("b"))
            found: list[Any] = await repository.list()
            # It is not known when the first one was added.
            assert [(each.id, each.added_at is None) for each in found] == [
                ("a", True),
                ("b", False),
            ]
            assert (found[0].text, found[0].parts, found[0].mark) == (
                "empty",
                [],
                uuid.UUID(int=7),
            )
            found[0].text = "full"
            await repository.update(found[0])
            assert (await repository.list())[0] == found[0]

    asyncio.run(main())


# -- stores --------------------------------------------------------------------------------------


def test_one_path_is_opened_once_and_closed_by_the_last(path: Path) -> None:
    async def main() -> None:
        talks, repository = conversations(path), messages(str(path))
        checkpoint = WalkvCheckpoint(path=path)
        await asyncio.gather(talks.setup(), repository.setup(), checkpoint.setup())
        with pytest.raises(LockedError):
            walkv.open(path)
        agent = await repository._connection.agent()
        await talks.close()
        await talks.close()
        await repository.list()
        assert not agent.closed
        await checkpoint.cleanup()
        with pytest.raises(LockedError):
            walkv.open(path)
        await repository.close()
        walkv.open(path).close()
        # And open again, by itself.
        assert await talks.list() == []
        await talks.close()

    asyncio.run(main())


def test_a_path_may_be_named_in_two_ways(path: Path) -> None:
    async def main() -> None:
        link = path.with_name("link.walkv")
        async with conversations(path) as talks:
            link.symlink_to(path)
            made = await talks.add(AgentConversation())
            async with conversations(link) as others:
                assert await others.list() == [made]

    asyncio.run(main())


def test_another_process_is_told_who_has_the_store(path: Path) -> None:
    async def main() -> None:
        async with conversations(path):
            said = await asyncio.to_thread(
                processes.run,
                f"""
                import asyncio
                from walkv.errors import LockedError
                from walkv.interfaces.repository import AgentConversation, WalkvRepository

                async def main():
                    try:
                        await WalkvRepository(AgentConversation, {str(path)!r}).list()
                    except LockedError as error:
                        print(error.pid)

                asyncio.run(main())
                """,
            )
        assert int(said) == os.getpid()

    asyncio.run(main())


def test_what_was_given_open_stays_open(path: Path) -> None:
    async def serve(store: Any) -> None:
        talks = conversations(None, store=store)
        checkpoint = WalkvCheckpoint(store=store)
        async with talks, checkpoint:
            made = await talks.add(AgentConversation(title="x"))
            assert await talks.get(made.id) == made
            await checkpoint.put("t", 1)
        assert await talks.delete(made.id)
        assert await checkpoint.get("t") == 1

    async def with_async_stores() -> None:
        async with await walkv.aopen(path) as store:
            await serve(store)
            assert not store.closed
        async with AsyncAgentStore(path) as agent:
            await serve(agent)
            assert not agent.closed

    with walkv.open(path) as store:
        asyncio.run(serve(store))
        assert not store.closed
    with AgentStore(path) as agent:
        asyncio.run(serve(agent))
        assert agent.checkpoints.get("t") is not None
    asyncio.run(with_async_stores())


def test_an_agents_policies_are_kept(path: Path) -> None:
    async def main(agent: AgentStore) -> None:
        checkpoint = WalkvCheckpoint(store=agent)
        face = await checkpoint._connection.agent()
        assert face.checkpoints._threaded.sync == walkv.WriteBack(2.0)

    with AgentStore(path, policies={"checkpoints": walkv.WriteBack(2.0)}) as agent:
        asyncio.run(main(agent))


def test_an_agent_that_is_not_open_is_refused(path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ClosedError, match="enter it"):
            await conversations(None, store=AsyncAgentStore(path)).list()

    asyncio.run(main())
    assert not path.exists()


def test_a_closed_store_is_told_from_an_empty_one(path: Path) -> None:
    store = walkv.open(path)
    talks = conversations(None, store=store)

    async def main() -> None:
        await talks.list()
        store.close()
        for call in (talks.list(), talks.get(uuid.uuid4()), talks.delete(uuid.uuid4())):
            with pytest.raises(ClosedError):
                await call

    asyncio.run(main())


def test_threads_with_event_loops_of_their_own_share_a_store(path: Path) -> None:
    titles = [f"{thread}/{number}" for thread in range(4) for number in range(10)]
    talks = conversations(path)

    async def add(thread: int) -> None:
        for number in range(10):
            await talks.add(AgentConversation(title=f"{thread}/{number}"))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(add(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def look() -> list[str | None]:
        async with talks:
            return [each.title for each in await talks.list()]

    assert sorted(map(str, asyncio.run(look()))) == titles


def test_event_loops_that_are_over_leave_nothing_behind(path: Path) -> None:
    with walkv.open(path) as store:
        talks = conversations(None, store=store)
        engine: Any = store.engine
        counts = []
        for _ in range(5):
            asyncio.run(talks.list())
            counts.append(len(engine.syncer._listeners))
        assert counts == [1] * 5

    async def main() -> None:
        async with conversations(path) as talks:
            agent = await talks._connection.agent()
        assert agent.store._closed, "the face and its threads are let go with the store"

    asyncio.run(main())


def test_the_event_loop_never_waits_for_a_sync(path: Path) -> None:
    loop_thread = threading.get_ident()
    synced_in: set[int] = set()

    def hook(operation: str, _path: str) -> None:
        if operation.startswith("sync"):
            synced_in.add(threading.get_ident())

    async def main() -> None:
        fs = HookedFileSystem(hook=hook)
        async with await walkv.aopen(path, filesystem=fs) as store:
            talks, repository = conversations(None, store=store), messages(None, store=store)
            talk = await talks.add(AgentConversation())
            await asyncio.gather(
                *(
                    repository.add(
                        AgentMessage(conversation_id=talk.id, role="user", content=f"{number}")
                    )
                    for number in range(20)
                )
            )
            await talks.update(talk)
            await talks.delete(talk.id)
            await WalkvCheckpoint(store=store).put("t", {"step": 1})

    asyncio.run(main())
    assert synced_in
    assert loop_thread not in synced_in


def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    text = f"""
        import asyncio, os, signal
        from walkv.interfaces.repository import AgentConversation, WalkvCheckpoint, WalkvRepository

        async def main():
            talks = WalkvRepository(AgentConversation, {str(path)!r})
            checkpoint = WalkvCheckpoint(path={str(path)!r})
            for number in range(20):
                await talks.add(AgentConversation(title=str(number)))
                await checkpoint.put("t", {{"step": number}})
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """
    with processes.start(text) as process:
        assert process.wait(120) == -9

    async def look() -> None:
        async with conversations(path) as talks, WalkvCheckpoint(path=path) as checkpoint:
            found = await talks.list()
            assert [each.title for each in found] == [str(number) for number in range(20)]
            assert await checkpoint.get("t") == {"step": 19}

    asyncio.run(look())


# -- configuration -------------------------------------------------------------------------------


def test_a_configuration_from_the_environment() -> None:
    assert StoreConfig.from_env({}) == StoreConfig("agent.walkv", walkv.Wal())
    made = StoreConfig.from_env(
        {
            "WALKV_PATH": "/data/a.walkv",
            "WALKV_SYNC": "write-back",
            "WALKV_MEMTABLE_BYTES": "1048576",
            "WALKV_CACHE_BYTES": "0",
        }
    )
    assert made == StoreConfig("/data/a.walkv", walkv.WriteBack(), 1 << 20, 0)
    assert StoreConfig.from_env({"WALKV_SYNC": "write-through"}).sync == walkv.WriteThrough()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WALKV_PATH", ""),
        ("WALKV_PATH", "a\0b"),
        ("WALKV_SYNC", "often"),
        ("WALKV_SYNC", ""),
        ("WALKV_MEMTABLE_BYTES", "1"),
        ("WALKV_MEMTABLE_BYTES", "128MB"),
        ("WALKV_MEMTABLE_BYTES", ""),
        ("WALKV_CACHE_BYTES", "-1"),
        ("WALKV_CACHE_BYTES", "1e6"),
        ("WALKV_CACHE_BYTES", "1_000"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        StoreConfig.from_env({name: value})
    assert (caught.value.name, caught.value.value) == (name, value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, walkv.WalkvError)


@pytest.mark.parametrize(
    "fields",
    [{"path": ""}, {"path": 7}, {"sync": "wal"}, {"memtable_bytes": 1}, {"cache_bytes": True}],
)
def test_a_bad_field_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        StoreConfig(**fields)
    assert caught.value.name == next(iter(fields))


def test_a_repository_is_configured_by_the_environment_and_uses_what_it_says(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WALKV_PATH", str(path))
    monkeypatch.setenv("WALKV_SYNC", "write-through")
    monkeypatch.setenv("WALKV_MEMTABLE_BYTES", "1000000")

    async def main() -> None:
        async with WalkvRepository(AgentConversation) as talks:
            agent = await talks._connection.agent()
            stats = await agent.store.stats()
            assert stats.path == str(path)
            assert stats.sync_policy == str(walkv.WriteThrough())
            assert stats.memtable_budget_bytes == 1_000_000
            assert agent.by_name["agent_conversations"]._threaded.sync == walkv.WriteThrough()

    asyncio.run(main())
    monkeypatch.setenv("WALKV_SYNC", "never")
    with pytest.raises(ConfigError):
        WalkvRepository(AgentConversation)
    with pytest.raises(ConfigError):
        WalkvCheckpoint()


# -- checkpoints ---------------------------------------------------------------------------------


def test_checkpoints_by_key(path: Path) -> None:
    async def main() -> None:
        async with WalkvCheckpoint(StoreConfig(str(path))) as checkpoint:
            assert await checkpoint.get("t") is None
            assert await checkpoint.list() == []
            for step in range(5):
                await checkpoint.put("t", {"step": step, "messages": ["hello"] * step})
            await checkpoint.put("another", ("tuple", {1: uuid.UUID(int=1)}))
            assert await checkpoint.get("t") == {"step": 4, "messages": ["hello"] * 4}
            assert await checkpoint.get("another") == ("tuple", {1: uuid.UUID(int=1)})
            assert await checkpoint.list() == ["another", "t"]
            assert await checkpoint.list(limit=1) == ["another"]
            with pytest.raises(CodecError, match="not None"):
                await checkpoint.put("t", None)
            with pytest.raises(CodecError):
                await checkpoint.put("t", {"thing": object()})
            assert await checkpoint.get("t") == {"step": 4, "messages": ["hello"] * 4}
        # The states before are still there.
        async with AsyncAgentStore(path) as agent:
            states = [each.data["step"] for each in await agent.checkpoints.list("t")]
            assert states == [4, 3, 2, 1, 0]

    asyncio.run(main())


def test_the_latest_state_is_the_one_that_was_put_last(path: Path) -> None:
    async def main() -> None:
        async with WalkvCheckpoint(path=path, sync=walkv.WriteBack()) as checkpoint:
            await asyncio.gather(*(checkpoint.put("t", {"number": n}) for n in range(50)))
            await checkpoint.put("t", {"number": "last"})
            assert await checkpoint.get("t") == {"number": "last"}
        async with WalkvCheckpoint(path=path) as checkpoint:
            assert await checkpoint.get("t") == {"number": "last"}

    asyncio.run(main())


# -- what repositories build on ------------------------------------------------------------------


class Loud(Namespace[Any]):
    """A namespace with an operation of its own."""

    def shout(self, key: str) -> str:
        """The text of a record, in capitals."""
        found = self.get(key)
        return "" if found is None else str(found.text).upper()


@dataclass(frozen=True, slots=True)
class Said:
    key: str
    text: str


def test_a_namespace_of_ones_own_may_have_a_class_of_its_own(path: Path) -> None:
    declaration = Declaration("said", Said, key="key")
    with AgentStore(path) as agent:
        made: Any = agent.namespace(declaration, cls=Loud)
        made.add(Said("a", "hello"))
        assert made.shout("a") == "HELLO"

    async def main() -> None:
        async with AsyncAgentStore(path) as agent:
            made = await agent.namespace(declaration, cls=Loud)
            assert await made.shout("a") == "HELLO"

    asyncio.run(main())
