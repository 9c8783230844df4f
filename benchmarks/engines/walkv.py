"""walkv, the engine under test."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.dataset import Item
from benchmarks.engines.base import Feature, Get, Guarantee, Writer

DURABLE_POLICIES = ("wal", "write-through")


class Walkv:
    """walkv with its defaults, but for the sync policy."""

    configuration: ClassVar[str] = (
        "default budgets; durable: Wal(), or WriteThrough() by --policy; process: WriteBack(), "
        "which syncs in the background each second, as no peer does in this class; one store for "
        "all threads; aopen() for asyncio tasks"
    )
    group_commits: ClassVar[bool] = True
    unsupported: ClassVar[Mapping[Feature, str]] = {}

    def __init__(
        self,
        path: Path,
        guarantee: Guarantee,
        *,
        value_bytes: int,
        policy: str = DURABLE_POLICIES[0],
        **budgets_bytes: int,
    ) -> None:
        import walkv

        # Any: mypy would hold `budgets_bytes` against every parameter of open.
        open_store: Any = walkv.open
        store: walkv.Store = open_store(path, sync=sync_policy(guarantee, policy), **budgets_bytes)
        self._store = store
        self.put = store.put
        self.get = store.get
        self.delete = store.delete
        self.compact = store.compact
        self.close = store.close

    @staticmethod
    def version() -> str:
        import walkv

        return walkv.__version__

    def compaction_count(self) -> int:
        """Flushes and merges that have finished since the store was opened."""
        stats = self._store.stats()
        return stats.flush_count + stats.merge_count

    def reading(self) -> AbstractContextManager[Get]:
        return nullcontext(self.get)

    def write_batch(self, items: Sequence[Item]) -> None:
        with self._store.batch() as batch:
            put = batch.put
            for key, value in items:
                put(key, value)

    def scan(self, *, reverse: bool = False) -> Iterator[Item]:
        return self._store.scan(reverse=reverse)

    def read_from(self, start: bytes, count: int, /) -> list[Item]:
        return list(self._store.scan(start=start, limit=count))

    def for_thread(self) -> Writer:
        return self


def sync_policy(guarantee: Guarantee, durable_policy: str) -> Any:
    """The sync policy of a guarantee class; `durable_policy` is one of `DURABLE_POLICIES`."""
    import walkv

    if guarantee == "process":
        return walkv.WriteBack()
    return walkv.WriteThrough() if durable_policy == "write-through" else walkv.Wal()
