from __future__ import annotations

from pathlib import Path

import walkv
from walkv.ops import Size, sizes


def test_each_namespace_is_counted_whole(tmp_path: Path) -> None:
    with walkv.AgentStore(tmp_path / "s") as agent:
        agent.sessions.create("s1", user_id="ada")
        for number in range(300):
            agent.messages.append("s1", role="user", content=f"hello {number}", sync=None)
        agent.checkpoints.put("t1", "c1", {"text": "x" * 5_000})
        store = agent.store
        store.compact()
        store.put(b"k1", b"12345")
        store.put(b"k2", b"12345")
        store.put(b"k2", b"1234567")
        found = {size.namespace: size for size in sizes(store)}
        assert found[""] == Size("", 2, 2 + 5 + 2 + 7)
        assert {name: size.record_count for name, size in found.items()} == {
            "": 2,
            "sessions": 1,
            "messages": 300,
            "checkpoints": 1,
        }
        assert found["checkpoints"].other_bytes > 5_000
        assert found["messages"].index_bytes > 300
        every = sum(len(key) + len(value) for key, value in store.scan(start=b"\0\1"))
        assert sum(size.total_bytes for size in found.values()) == every


def test_progress_ends_where_all_is_counted(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with walkv.open(tmp_path / "s") as store:
        with store.batch() as batch:
            for number in range(1_000):
                batch.put(b"%d" % number, b"v")
        (size,) = sizes(store, lambda done, total: seen.append((done, total)))
    assert size.record_count == 1_000
    assert seen[-1] == (1_000, 1_000)


def test_an_empty_store(tmp_path: Path) -> None:
    with walkv.open(tmp_path / "s") as store:
        assert sizes(store) == []
