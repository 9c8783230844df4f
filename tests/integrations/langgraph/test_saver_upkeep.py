"""What is deleted, copied and pruned through the saver, what is left, and what damage does."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from tests.integrations.langgraph.handmade import (
    chat,
    config,
    entries,
    ids,
    kept_by,
    left_behind,
    parts,
    put,
    text,
    unneeded_bytes,
    values_of,
    writes_of,
    written_bytes,
)
from walkv import AgentStore, RecordExistsError, RecordNotFoundError, WalkvError, WriteBack
from walkv.integrations.langgraph import WalkvSaver
from walkv.namespaces.checkpoints import Pruned
from walkv.testing import SimulatedFileSystem

BIG = text(0, 20_000)


@pytest.fixture
def agent() -> Iterator[AgentStore]:
    with AgentStore("/a.walkv", filesystem=SimulatedFileSystem()) as opened:
        yield opened
        assert opened.verify() == []


@pytest.fixture
def saver(agent: AgentStore) -> WalkvSaver:
    return WalkvSaver(agent)


# -- deleting and copying --------------------------------------------------------------------------


def filled(saver: WalkvSaver) -> None:
    """Threads with namespaces, forks, large values and large writes."""
    for thread_id in ("t", "u", "t\0"):
        chat(saver, 6, thread_id)
        put(saver, "fork", {"a": BIG}, thread_id=thread_id, parent="000002")
        put(saver, "1", {"a": BIG}, thread_id=thread_id, namespace="sub")
        for where in (config(thread_id, "000003"), config(thread_id, "1", "sub")):
            saver.put_writes(where, [("x", 1), ("y", text(7, 30_000))], "task")
    saver.copy_thread("t", "copy")


WAYS: dict[str, Callable[[WalkvSaver, list[str]], Any]] = {
    "delete_thread": lambda saver, threads: [saver.delete_thread(each) for each in threads],
    "prune": lambda saver, threads: saver.prune(threads, strategy="delete"),
    "keep none": lambda saver, threads: saver.prune(threads, keep_last=0),
    "runs": lambda saver, threads: saver.delete_for_runs(["r0", "r1"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_emptied_store_is_empty(saver: WalkvSaver, way: str) -> None:
    filled(saver)
    if way == "runs":
        for thread_id in ("t", "u", "t\0", "copy"):
            saver.delete_thread(thread_id)
        for n in range(6):
            where = put(saver, str(n), {"a": BIG + str(n)}, metadata={"run_id": f"r{n % 2}"})
            saver.put_writes(where, [("y", text(7, 30_000))], "task")
    WAYS[way](saver, ["t", "u", "t\0", "copy", "none"])
    assert left_behind(saver) == []
    assert saver.usage() == (0, 0, 0, 0)
    assert saver.threads() == []
    assert list(saver.list(None)) == []
    filled(saver)
    assert values_of(saver, config("t", "fork")) == {"a": BIG}


def test_deleting_is_of_one_thread(saver: WalkvSaver) -> None:
    filled(saver)
    before = [each for each in saver.list(None) if each.config["configurable"]["thread_id"] != "t"]
    saver.delete_thread("t")
    asyncio.run(saver.adelete_thread("never"))
    assert list(saver.list(None)) == before
    assert unneeded_bytes(saver) == 0
    assert saver.get_tuple(config("t")) is None
    assert list(saver.list(config("t", namespace=None))) == []


def test_deleting_by_run_deletes_what_is_of_these_runs(saver: WalkvSaver) -> None:
    for n in range(8):
        where = put(
            saver,
            str(n),
            {"a": text(n, 3000)},
            thread_id="tu"[n % 2],
            parent=str(n - 2) if n > 1 else None,
            metadata={"run_id": f"r{n // 3}"},
        )
        saver.put_writes(where, [("y", text(n, 30_000))], "task")
    put(saver, "no text", {"a": 1}, metadata={"run_id": 5})
    saver.delete_for_runs(["r1", "none"])
    asyncio.run(saver.adelete_for_runs([]))
    assert sorted(ids(saver.list(None))) == ["0", "1", "2", "6", "7", "no text"]
    assert values_of(saver, config("t", "6")) == {"a": text(6, 3000)}
    asyncio.run(saver.adelete_for_runs(["r0"]))
    assert sorted(ids(saver.list(None))) == ["6", "7", "no text"]
    assert writes_of(saver, config("u", "7")) == [("task", "y", text(7, 30_000))]


def test_a_copy_shares_and_lives_on_its_own(saver: WalkvSaver) -> None:
    filled(saver)
    saver.delete_thread("copy")
    before = parts(saver)
    written = written_bytes(saver)
    saver.copy_thread("t", "copy")
    assert parts(saver) == before
    assert written_bytes(saver) - written < 8000
    copied = {
        config("copy", each.checkpoint["id"])["configurable"]["checkpoint_id"]: each
        for each in saver.list(config("copy", namespace=None))
    }
    for found in saver.list(config("t", namespace=None)):
        twin = copied[found.checkpoint["id"]]
        assert twin.checkpoint == found.checkpoint
        assert twin.metadata == found.metadata
        assert twin.pending_writes == found.pending_writes
        assert twin.config["configurable"]["thread_id"] == "copy"
    put(saver, "new", {"a": "of the copy"}, thread_id="copy", parent="fork")
    put(saver, "new", {"a": "of the source"}, parent="fork")
    saver.put_writes(config("t", "fork"), [("x", 1)], "task")
    assert values_of(saver, config("copy")) == {"a": "of the copy"}
    assert writes_of(saver, config("copy", "fork")) == []
    saver.delete_thread("t")
    assert unneeded_bytes(saver) == 0
    assert len(values_of(saver, config("copy", "000005"))["messages"]) == 6
    assert writes_of(saver, config("copy", "000003"))[1] == ("task", "y", text(7, 30_000))


def test_copying_what_is_not_there_or_over_what_is(saver: WalkvSaver) -> None:
    put(saver, "1", {"a": 1})
    put(saver, "1", {"a": 2}, thread_id="u")
    before = entries(saver)
    for source, target, error in [
        ("none", "v", RecordNotFoundError),
        ("t", "u", RecordExistsError),
        ("t", "t", RecordExistsError),
    ]:
        with pytest.raises(error):
            saver.copy_thread(source, target)
        with pytest.raises(error):
            asyncio.run(saver.acopy_thread(source, target))
    assert entries(saver) == before
    saver.copy_thread("t", 7)  # type: ignore[arg-type]
    assert values_of(saver, config(7)) == {"a": 1}


# -- large writes ----------------------------------------------------------------------------------


def test_large_writes_are_kept_once_for_copies(saver: WalkvSaver) -> None:
    where = put(saver, "1", {"a": 1})
    value = text(1, 100_000)
    saver.put_writes(where, [("x", value), ("y", 1)], "task")
    assert len(parts(saver)) == 1
    before = written_bytes(saver)
    for name in ("u", "v"):
        saver.copy_thread("t", name)
    assert written_bytes(saver) - before < 3000
    for name in ("t", "u"):
        saver.delete_thread(name)
        for left in saver.threads():
            assert writes_of(saver, config(left)) == [("task", "x", value), ("task", "y", 1)]
    put(saver, "2", {"a": 2}, thread_id="v", parent="1")
    assert saver.prune(["v"]).freed_bytes > 100_000  # its checkpoint has gone
    assert parts(saver) == {}
    assert writes_of(saver, config("v")) == []


def test_a_large_write_that_is_not_kept_is_collected(saver: WalkvSaver) -> None:
    where = put(saver, "1", {"a": 1})
    put(saver, "0", {"a": 1})
    for n in range(3):
        saver.put_writes(where, [("x", text(n, 40_000))], "task")  # the first one stays
        saver.put_writes(where, [("__interrupt__", text(n, 50_000))], "task")  # the last one
    expected = [("task", "__interrupt__", text(2, 50_000)), ("task", "x", text(0, 40_000))]
    assert writes_of(saver, where) == expected
    kept_by(saver).delete("t", "0")
    saver.prune(["t"])
    assert unneeded_bytes(saver) == 0
    assert sum(map(len, parts(saver).values())) < 100_000
    assert writes_of(saver, where) == expected


def test_writes_count_in_the_usage(saver: WalkvSaver) -> None:
    where = put(saver, "1", {"a": 1})
    small = saver.usage()
    saver.put_writes(where, [("x", text(1, 100_000)), ("y", 2)], "task")
    usage = saver.usage("t")
    assert usage.write_count == 2
    assert usage.kept_bytes > small.kept_bytes + 100_000
    saver.copy_thread("t", "u")
    both = saver.usage()
    assert both.write_count == 4
    assert both.kept_bytes < usage.kept_bytes + 1000
    assert asyncio.run(saver.ausage()) == both
    assert asyncio.run(saver.ausage("none")) == (0, 0, 0, 0)


# -- pruning ---------------------------------------------------------------------------------------


def put_dated(saver: WalkvSaver, count: int, thread_id: str = "t", namespace: str = "") -> None:
    """A checkpoint a day, from the first of May on."""
    for n in range(count):
        where = put(
            saver,
            f"{n:02}",
            {"a": text(n, 3000)},
            thread_id=thread_id,
            namespace=namespace,
            parent=f"{n - 1:02}" if n else None,
            versions={"a": n + 1},
            ts=f"2024-05-{n + 1:02}T10:00:00+00:00",
        )
        saver.put_writes(where, [("x", text(n, 20_000))], "task")


def day(number: int) -> datetime:
    return datetime(2024, 5, number, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, "09"),
        ({"strategy": "keep_latest"}, "09"),
        ({"keep_last": 3}, "09 08 07"),
        ({"keep_last": 10}, "09 08 07 06 05 04 03 02 01 00"),
        ({"keep_last": 99}, "09 08 07 06 05 04 03 02 01 00"),
        ({"strategy": "delete"}, ""),
        ({"keep_last": 0}, ""),
        ({"older_than": day(4)}, "09 08 07 06 05 04 03"),
        ({"older_than": day(4), "keep_last": 8}, "09 08 07 06 05 04 03 02"),
        ({"older_than": day(4), "strategy": "delete"}, "09 08 07 06 05 04 03"),
        ({"older_than": day(30)}, "09"),
        ({"older_than": day(30), "strategy": "delete"}, ""),
        ({"older_than": day(1)}, "09 08 07 06 05 04 03 02 01 00"),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["threads", "tasks"])
def test_what_pruning_leaves(saver: WalkvSaver, options: Any, left: str, way: str) -> None:
    def prune(**more: Any) -> Pruned:
        if way == "threads":
            return saver.prune(["t"], **options, **more)
        return asyncio.run(saver.aprune(["t"], **options, **more))

    put_dated(saver, 10)
    put_dated(saver, 10, "u")
    expected = {name: values_of(saver, config("t", name)) for name in left.split()}
    before = entries(saver)
    gone = 10 - len(expected)
    assert prune(dry_run=True) == Pruned(gone, 0)
    assert entries(saver) == before
    kept_bytes = sum(map(len, parts(saver).values()))
    done = prune()
    assert done.checkpoint_count == gone
    assert done.freed_bytes == kept_bytes - sum(map(len, parts(saver).values()))
    assert done.freed_bytes >= gone * 20_000
    assert ids(saver.list(config("t"))) == list(expected)
    for name, values in expected.items():
        assert values_of(saver, config("t", name)) == values
        assert len(writes_of(saver, config("t", name))) == 1
    assert len(list(saver.list(config("u")))) == 10
    assert unneeded_bytes(saver) == 0
    assert prune() == Pruned(0, 0)


def test_pruning_is_by_namespace_and_for_several_threads(saver: WalkvSaver) -> None:
    for thread_id in ("t", "u", "v"):
        put_dated(saver, 4, thread_id)
        put_dated(saver, 3, thread_id, "sub")
    done = saver.prune(["t", "u", "t", "none"], keep_last=2)
    assert done.checkpoint_count == 2 * (2 + 1)
    for thread_id in ("t", "u"):
        assert ids(saver.list(config(thread_id))) == ["03", "02"]
        assert ids(saver.list(config(thread_id, namespace="sub"))) == ["02", "01"]
    assert len(list(saver.list(config("v", namespace=None)))) == 7
    assert asyncio.run(saver.aprune([])) == Pruned(0, 0)
    assert saver.prune([7]) == Pruned(0, 0)  # type: ignore[list-item]


def test_what_is_asked_wrongly_is_refused(saver: WalkvSaver) -> None:
    put_dated(saver, 3)
    before = entries(saver)
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"strategy": "oldest"}, ValueError, "keep_latest"),
        ({"strategy": "delete", "keep_last": 1}, TypeError, "leave keep_last out"),
        ({"keep_last": -1}, ValueError, "0 or more"),
        ({"older_than": datetime(2024, 5, 2)}, ValueError, "time zone"),
        ({"older_than": "yesterday"}, ValueError, "created_at"),
    ]
    for options, error, words in bad:
        with pytest.raises(error, match=words):
            saver.prune(["t"], **options)
        with pytest.raises(error, match=words):
            asyncio.run(saver.aprune(["t"], **options))
    assert entries(saver) == before


def test_who_reads_while_others_prune_sees_whole_checkpoints(tmp_path: Path) -> None:
    with WalkvSaver(tmp_path / "s", sync=WriteBack()) as saver:
        done = threading.Event()
        errors: list[BaseException] = []

        def guarded(work: Callable[[], None]) -> Callable[[], None]:
            def call() -> None:
                try:
                    work()
                except BaseException as error:  # noqa: BLE001  # told below
                    errors.append(error)
                finally:
                    done.set()

            return call

        def write() -> None:
            for n in range(150):
                values = {"n": n, "a": text(n, 2000), "b": [text(n, 400)] * 3}
                parent = f"{n - 1:03}" if n else None
                where = put(saver, f"{n:03}", values, parent=parent, versions={})
                saver.put_writes(where, [("x", text(n, 17_000))], "task")
                saver.prune(["t"])

        def read() -> None:
            while not done.is_set():
                for found in (saver.get_tuple(config()), *saver.list(config())):
                    if found is None:
                        continue
                    values = found.checkpoint["channel_values"]
                    n = values["n"]
                    assert values == {"n": n, "a": text(n, 2000), "b": [text(n, 400)] * 3}
                    assert found.pending_writes in ([], [("task", "x", text(n, 17_000))])

        threads = [threading.Thread(target=guarded(each)) for each in (write, read, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert ids(saver.list(config())) == ["149"]
        assert unneeded_bytes(saver) == 0


def test_the_disk_comes_back(tmp_path: Path) -> None:
    with WalkvSaver(tmp_path / "s", sync=WriteBack()) as saver:
        store = saver.agent.store
        for thread_id in ("t", "u"):
            for n in range(40):
                put(saver, f"{n:02}", {"a": text(n, 20_000)}, thread_id=thread_id)
        store.compact()
        full = store.stats().disk_bytes
        assert full > 80 * 15_000
        saver.prune(["t"], keep_last=4)
        store.compact()
        assert store.stats().disk_bytes < full * 0.6
        saver.delete_thread("u")
        store.compact()
        assert store.stats().disk_bytes < full * 0.1
        assert values_of(saver) == {"a": text(39, 20_000)}
        saver.delete_thread("t")
        store.compact()
        assert store.stats().disk_bytes < 20_000


# -- delta channels --------------------------------------------------------------------------------

CHANNELS = ("d", "e")
Deltas = dict[str, Any]


def put_deltas(saver: WalkvSaver, count: int, prefix: str = "", first: str | None = None) -> None:
    """A line of checkpoints with two delta channels that are snapshotted now and then."""
    since = dict.fromkeys(CHANNELS, 0)
    for n in range(count):
        values: dict[str, Any] = {"n": n}
        for channel, every in zip(CHANNELS, (5, 7), strict=True):
            since[channel] += 1
            if n % every == every - 1:
                values[channel] = _DeltaSnapshot([f"{prefix}{channel}{n}"])
                since[channel] = 0
        where = put(
            saver,
            f"{prefix}{n:02}",
            values,
            parent=f"{prefix}{n - 1:02}" if n else first,
            versions=dict.fromkeys(("n", *CHANNELS), n + 1),
            metadata={
                "step": n,
                "counters_since_delta_snapshot": {
                    channel: (passed, passed) for channel, passed in since.items()
                },
            },
        )
        writes = [(channel, [f"{prefix}{channel}{n}", text(n, 17_000)]) for channel in CHANNELS]
        saver.put_writes(where, writes, f"task {n}")


def histories(saver: Any, names: list[str]) -> dict[str, Any]:
    """What is needed of the ancestors of checkpoints, by their names."""
    found = {}
    for name in names:
        values = values_of(saver, config("t", name))
        channels = [channel for channel in CHANNELS if channel not in values]
        found[name] = saver.get_delta_channel_history(config=config("t", name), channels=channels)
    return found


@pytest.mark.parametrize("count", [3, 8, 12, 20])
@pytest.mark.parametrize("keep_last", [1, 2])
def test_pruning_leaves_what_delta_channels_are_made_of(
    saver: WalkvSaver, count: int, keep_last: int
) -> None:
    put_deltas(saver, count)
    names = [f"{n:02}" for n in range(count - keep_last, count)]
    expected = histories(saver, names)
    planned = saver.prune(["t"], keep_last=keep_last, dry_run=True)
    done = asyncio.run(saver.aprune(["t"], keep_last=keep_last))
    assert done.checkpoint_count == planned.checkpoint_count
    assert histories(saver, names) == expected
    # And no more than that: nothing from before the oldest writes that are needed.
    tasks = [
        int(task_id.removeprefix("task "))
        for found in expected.values()
        for history in found.values()
        for task_id, _, _ in history["writes"]
    ]
    oldest = min([*tasks, count - keep_last])
    assert sorted(ids(saver.list(config()))) == [f"{n:02}" for n in range(oldest, count)]
    assert saver.prune(["t"], keep_last=keep_last) == Pruned(0, 0)
    assert unneeded_bytes(saver) == 0
    saver.prune(["t"], strategy="delete")
    assert left_behind(saver) == []


def test_pruning_a_fork_leaves_the_line_it_came_from(saver: WalkvSaver) -> None:
    put_deltas(saver, 9)
    put_deltas(saver, 3, "f", "08")
    expected = histories(saver, ["f02"])
    assert [each for each, _, _ in expected["f02"]["d"]["writes"]][:2] == ["task 4", "task 5"]
    saver.prune(["t"])
    assert histories(saver, ["f02"]) == expected
    assert sorted(ids(saver.list(config()))) == ["04", "05", "06", "07", "08", "f00", "f01", "f02"]


def test_a_copy_has_the_histories_of_its_source(saver: WalkvSaver) -> None:
    put_deltas(saver, 12)
    names = [f"{n:02}" for n in range(12)]
    expected = histories(saver, names)
    saver.copy_thread("t", "u")
    saver.delete_thread("t")
    saver.copy_thread("u", "t")
    assert histories(saver, names) == expected


VALUE = st.sampled_from([0, "text", text(1, 400), text(2, 17_000), text(3, 40_000)])
NODE = st.tuples(
    st.integers(-2, 30),  # its parent: an earlier one, or none, or one that is not there
    st.dictionaries(st.sampled_from("abc"), VALUE, max_size=2),
    st.lists(
        st.tuples(
            st.sampled_from(["t1", "t2", "t3"]),
            st.sampled_from(["", "p", "q"]),
            st.lists(st.tuples(st.sampled_from("abc"), VALUE), min_size=1, max_size=3),
        ),
        max_size=3,
    ),
)


@given(nodes=st.lists(NODE, min_size=1, max_size=9), keep_last=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_histories_are_those_of_the_walk_through_parents(nodes: Any, keep_last: int) -> None:
    fs = SimulatedFileSystem()
    with AgentStore("/a", filesystem=fs, sync=WriteBack()) as agent:
        saver = WalkvSaver(agent, sync=WriteBack())
        for n, (parent, values, tasks) in enumerate(nodes):
            before = None if parent == -1 or not n else f"{parent % n:02}"
            if parent == -2:
                before = "gone"
            counters = {name: (1, 1) for name in "abc" if name not in values}
            where = put(
                saver,
                f"{n:02}",
                values,
                parent=before,
                versions=dict.fromkeys("abc", n + 1),
                new=values,
                metadata={"counters_since_delta_snapshot": counters},
            )
            for task_id, path, writes in tasks:
                saver.put_writes(where, writes, task_id, path)

        def walked(name: str | None, channels: list[str], *, mine: bool) -> Any:
            cls = WalkvSaver if mine else BaseCheckpointSaver
            where = config("t", name)
            found = cls.get_delta_channel_history(saver, config=where, channels=channels)
            if mine:
                other = saver.aget_delta_channel_history(config=where, channels=channels)
                assert asyncio.run(other) == found
            return found

        names = [f"{n:02}" for n in range(len(nodes))]
        for name in [*names, None, "none"]:
            for channels in (["a"], ["c", "a", "b", "other"], []):
                expected = walked(name, channels, mine=False)
                found = walked(name, channels, mine=True)
                assert found == expected
                assert list(found) == list(expected)
        kept = {}
        for name, (_, values, _) in list(zip(names, nodes, strict=True))[-keep_last:]:
            without_value = [channel for channel in "abc" if channel not in values]
            kept[name] = (without_value, walked(name, without_value, mine=False))
        saver.prune(["t"], keep_last=keep_last)
        for name, (without_value, expected) in kept.items():
            assert walked(name, without_value, mine=True) == expected


def test_a_history_is_of_one_moment_and_ends(saver: WalkvSaver) -> None:
    for name, parent in [("1", "3"), ("2", "1"), ("3", "2"), ("own", "own")]:
        where = put(saver, name, {"a": 1}, parent=parent)
        saver.put_writes(where, [("d", name)], "task")

    def contributed(name: str) -> list[str]:
        found = saver.get_delta_channel_history(config=config("t", name), channels=["d"])
        return [value for _, _, value in found["d"]["writes"]]

    # A circle of parents is walked once.
    assert contributed("3") == ["1", "2"]
    assert contributed("own") == []
    for n in range(3):
        saver.prune(["t"], keep_last=3 - n)
    assert ids(saver.list(config())) == ["own"]


# -- damage ----------------------------------------------------------------------------------------

SAID = [
    HumanMessage(text(1, 900), id="1"),
    AIMessage(text(2, 900), id="2", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "3"}]),
]
CHANNEL_VALUES: dict[str, Any] = {"said": SAID, "draft": BIG, "flag": True, "none": None}


def damageable(saver: WalkvSaver) -> None:
    for n in range(3):
        values = CHANNEL_VALUES | {"draft": BIG + str(n), "said": SAID[: n + 1]}
        where = put(
            saver,
            f"id {n}",
            values,
            parent=f"id {n - 1}" if n else None,
            new=["said", "draft"] if n else None,
            versions={"said": n, "draft": n, "flag": 0, "none": 0},
            metadata={
                "step": n,
                "run_id": "run",
                "counters_since_delta_snapshot": {"delta": (1, n)},
            },
        )
        saver.put_writes(where, [("delta", n), ("large", text(n, 20_000))], "task", "path")
    put(saver, "id 1", {"flag": 1}, namespace="sub")
    saver.copy_thread("t", "u")


def read_everything(saver: WalkvSaver) -> Iterator[Any]:
    """Each way to read; what is read is held against what was put."""
    expected = {
        (namespace, f"id {n}"): CHANNEL_VALUES | {"draft": BIG + str(n), "said": SAID[: n + 1]}
        for n in range(3)
        for namespace in ("", "sub")
    }
    expected["sub", "id 1"] = {"flag": 1}

    def look(found: Any) -> None:
        own = found.config["configurable"]
        values = expected.get((own["checkpoint_ns"], own["checkpoint_id"]), {})
        for name, value in found.checkpoint["channel_values"].items():
            assert name not in values or value == values[name]
        for _, name, value in found.pending_writes:
            assert name != "large" or value in [text(n, 20_000) for n in range(3)]

    def get(*where: Any) -> None:
        found = saver.get_tuple(config(*where))
        if found is not None:
            look(found)

    for thread_id in ("t", "u"):
        for name in (None, "id 0", "id 1", "id 2"):
            yield lambda where=(thread_id, name): get(*where)
        yield lambda where=(thread_id, "id 1", "sub"): get(*where)
        where = config(thread_id, namespace=None)
        yield lambda where=where: [look(each) for each in saver.list(where)]
        yield lambda where=where: list(saver.list(where, filter={"step": 1}))
        yield lambda where=where: list(saver.list(where, before=config("t", "id 1")))
        where = config(thread_id)
        yield lambda where=where: saver.get_delta_channel_history(
            config=where, channels=["delta", "draft", "large"]
        )
        yield lambda thread_id=thread_id: saver.usage(thread_id)
    yield lambda: [look(each) for each in saver.list(None)]
    yield lambda: saver.threads()
    yield lambda: saver.usage()


class _Undone(Exception):
    pass


def change_something(saver: WalkvSaver) -> Iterator[Any]:
    yield lambda: put(saver, "new", {"draft": BIG}, parent="id 2", new=["draft"])
    yield lambda: put(saver, "id 1", {"draft": BIG}, parent="id 0", thread_id="u")
    yield lambda: saver.put_writes(config("t", "id 1"), [("large", BIG)], "task")
    yield lambda: saver.put_writes(config("t", "id 2"), [("__error__", 1)], "task")
    yield lambda: saver.copy_thread("t", "v")
    yield lambda: saver.prune(["t", "u"], dry_run=True)
    yield lambda: saver.prune(["t"])
    yield lambda: saver.prune(["u"], keep_last=2)
    yield lambda: saver.delete_for_runs(["run"])
    yield lambda: saver.delete_thread("t")


def only_typed_errors(agent: AgentStore) -> None:
    """Read and change everything; nothing raises what is not walkv's own."""
    saver = WalkvSaver(agent)  # remembers nothing of before
    for read in read_everything(saver):
        with suppress(WalkvError):
            read()
    for change in change_something(saver):
        with suppress(WalkvError, _Undone), agent.batch():
            change()
            raise _Undone


def flipped(value: bytes, at: int, rng: random.Random) -> bytes:
    return value[:at] + bytes((value[at] ^ 1 << rng.randrange(8),)) + value[at + 1 :]


def test_whatever_is_damaged_it_is_a_typed_error_or_no_harm(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    damageable(saver)
    for read in read_everything(saver):
        read()
    for change in change_something(saver):
        with suppress(_Undone), agent.batch():
            change()
            raise _Undone
    whole = entries(saver)
    rng = random.Random(11)
    for key, value in sorted(whole.items()):
        broken = [b"", value[: len(value) // 2], b"\x92\xa1x\x01", b"\xc0"]
        if value:
            broken += [flipped(value, at, rng) for at in {0, rng.randrange(len(value))}]
        for each in broken:
            agent.store.put(key, each)
            only_typed_errors(agent)
        agent.store.put(key, value)
    assert entries(saver) == whole


def test_no_flipped_byte_of_a_record_gives_another_value(agent: AgentStore) -> None:
    saver = WalkvSaver(agent)
    damageable(saver)
    checkpoints = kept_by(saver)
    key = checkpoints._find(agent.store, "t", "", "id 2")  # type: ignore[arg-type]
    assert key is not None
    value = agent.store[key]
    fresh = WalkvSaver(agent)
    rng = random.Random(3)
    refused = 0
    for at in range(len(value)):
        agent.store.put(key, flipped(value, at, rng))
        try:
            found = fresh.get_tuple(config("t", "id 2"))
            usable = [*fresh.list(config())]
        except WalkvError:
            refused += 1
            continue
        assert found is not None
        assert usable
        expected = CHANNEL_VALUES | {"draft": BIG + "2", "said": SAID}
        for name, each in found.checkpoint["channel_values"].items():
            assert expected.get(name, each) == each
    assert refused > len(value) // 3


HOSTILE: dict[str, tuple[str, bytes]] = {
    "a number for a dict": ("msgpack", b"\x05"),
    "a list for a dict": ("msgpack", b"\x91\x05"),
    "null": ("null", b""),
    "a text": ("msgpack", b"\xa1x"),
    "bytes": ("bytes", b"x"),
    "nothing": ("msgpack", b""),
    "an unknown form": ("yaml", b"x: 1"),
    "pickle": ("pickle", b"\x80\x04K\x05."),
    "deep json": ("json", b"[" * 100_000),
    "deep msgpack": ("msgpack", b"\x91" * 100_000),
    "a secret": ("json", b'{"lc": 1, "type": "secret", "id": ["HOME"]}'),
    "a huge claim": ("msgpack", b"\xdd\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("place", ["checkpoint", "metadata", "write"])
def test_a_value_of_another_shape_is_refused(
    agent: AgentStore, hostile: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, data = HOSTILE[hostile]
    saver = WalkvSaver(agent)
    real = saver.serde.dumps_typed

    def dumps_typed(value: Any) -> tuple[str, bytes]:
        what = "write"
        if isinstance(value, dict):
            what = "checkpoint" if "channel_versions" in value else "metadata"
        return (kind, data) if what == place else real(value)

    monkeypatch.setattr(saver.serde, "dumps_typed", dumps_typed)
    where = put(saver, "1", {})
    saver.put_writes(where, [("x", 1)], "task")
    if place != "write":
        with pytest.raises(WalkvError):
            saver.get_tuple(config())
        with pytest.raises(WalkvError):
            list(saver.list(config(), filter={"step": 1} if place == "metadata" else None))
        return
    with suppress(WalkvError):
        saver.get_tuple(config())


def test_large_writes_that_are_replaced_or_ignored_leave_nothing(saver: WalkvSaver) -> None:
    named = put(saver, "1", {"n": 1})
    kept = saver.usage("t").kept_bytes
    for n in range(5):
        saver.put_writes(named, [("__interrupt__", text(n, 40_000))], "task")
        saver.put_writes(named, [("n", text(n + 100, 40_000))], "task")
    found = saver.get_tuple(named)
    assert found is not None
    assert found.pending_writes == [
        ("task", "__interrupt__", text(4, 40_000)),
        ("task", "n", text(100, 40_000)),
    ]
    saver.prune(["t"])
    assert saver.usage("t").kept_bytes - kept < 90_000
    live = sum(len(value) for _, value in saver.agent.store.scan(b"\0langgraph_checkpoints\0x"))
    assert live < 95_000
    saver.put_writes(named, [("__interrupt__", "small")], "task")
    saver.prune(["t"])
    assert saver.usage("t").kept_bytes - kept < 45_000


def test_a_put_costs_no_more_with_many_namespaces(saver: WalkvSaver) -> None:
    def put_bytes(n: int) -> int:
        before = saver.agent.store.engine.write_log.position  # type: ignore[union-attr]
        value = {"n": text(n, 500)}  # too large for a recipe
        put(saver, f"{n:04}", value, namespace=f"child:{n:032x}|grandchild:{n:032x}")
        put(saver, f"{n:04}", value)
        return saver.agent.store.engine.write_log.position - before  # type: ignore[union-attr]

    sizes = [put_bytes(n) for n in range(400)]
    assert max(sizes[-10:]) < 1.2 * max(sizes[:10])
    lanes = [
        key
        for key in saver.agent.store.scan(b"\0langgraph_checkpoints\0xp", keys_only=True)
        if len(key) == len(b"\0langgraph_checkpoints\0xp") + 8 + 1 + 4
    ]
    assert len(lanes) == 2
    assert len(saver.agent.by_name["langgraph_checkpoints"].namespaces("t")) == 401  # type: ignore[attr-defined]
    saver.copy_thread("t", "t2")
    saver.delete_thread("t")
    assert len(list(saver.list(config("t2", namespace=None)))) == 800
    saver.delete_thread("t2")
    left = list(saver.agent.store.scan(b"\0langgraph_checkpoints\0", keys_only=True))
    assert left == [b"\0langgraph_checkpoints\0xn"]


def test_a_delta_channel_that_was_never_written_holds_up_no_prune(saver: WalkvSaver) -> None:
    parent = None
    for n in range(10):
        counters = {"counters_since_delta_snapshot": {"delta": [0, n + 1]}}
        put(saver, f"{n}", {"n": n}, parent=parent, metadata=counters)
        parent = f"{n}"
    assert saver.prune(["t"]).checkpoint_count == 9


@pytest.mark.parametrize("given", [{}, {"thread_id": None}])
def test_a_thread_that_is_not_named_is_not_every_thread(
    saver: WalkvSaver, given: dict[str, Any]
) -> None:
    put(saver, "1", {"n": 1}, thread_id="alice")
    try:
        assert list(saver.list({"configurable": given})) == []
    except KeyError:
        assert not given
    assert len(list(saver.list(None))) == 1
