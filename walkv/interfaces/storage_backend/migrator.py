"""From one storage to another: every kind of record, as often as it takes.

Invariants:
    1. A run only adds. What is there already is left alone, so the next run goes on where one was
       stopped, at any point, and a run after a complete one changes nothing.
    2. Nothing is left out in silence: a record that the target refuses is in ``failures``, and what
       is missing in the end shows in the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from walkv.errors import RecordExistsError
from walkv.interfaces.storage_backend.backend import WalkvStorageBackend
from walkv.interfaces.storage_backend.errors import StorageConnectionError, StorageError
from walkv.interfaces.storage_backend.sides import LISTS, OtherSide, Side, WalkvSide, ids_of, lister

Progress = Callable[[str, int, int], None]
"""Called with a kind of record, how many ids of it are done, and how many there are."""

KINDS: Final = tuple(LISTS)
"""What is migrated: sessions; messages; checkpoints with their pending writes; task contexts."""

_REFUSALS: Final = (StorageError, RecordExistsError, KeyError, TypeError, ValueError)
"""What is about one record. Anything else ends the run."""

_MOST_FAILURES: Final = 1000


@dataclass(slots=True)
class MigratedKind:
    """What a run did about one kind of record.

    Attributes:
        copied: written by this run.
        source_count, target_count: found in the end, in the source and, below the same ids, in the
            target.
    """

    copied: int = 0
    source_count: int = 0
    target_count: int = 0


@dataclass(frozen=True, slots=True)
class MigrationFailure:
    """A record that could not be migrated.

    Attributes:
        kind: one of ``KINDS``.
        id: the session or thread; what is behind the record at fault there was not migrated either.
        reason: what the storage said.
    """

    kind: str
    id: str
    reason: str


@dataclass(slots=True)
class MigrationReport:
    """What a run did.

    Attributes:
        kinds: by kind; pending writes are a kind of their own, ``writes``.
        failures: the first thousand of them.
        failure_count: all of them.
    """

    kinds: dict[str, MigratedKind] = field(default_factory=dict)
    failures: list[MigrationFailure] = field(default_factory=list)
    failure_count: int = 0

    @property
    def copied(self) -> int:
        """How many records this run has written."""
        return sum(each.copied for each in self.kinds.values())

    @property
    def complete(self) -> bool:
        """Whether the target has everything: nothing failed, and no count falls short."""
        counted = all(each.target_count >= each.source_count for each in self.kinds.values())
        return counted and not self.failure_count


def _side(storage: Any) -> Side:
    if isinstance(storage, WalkvStorageBackend):
        return WalkvSide(storage)
    return OtherSide(storage)


class StorageMigrator:
    """Copies what one storage has to another.

    Between walkv storages everything is copied as it is, to the microsecond and in its order:
    counters and times of sessions, numbers and ids of messages, checkpoints with their namespaces
    and parents, old versions of task contexts. To and from other backends goes what the interfaces
    carry; such a target notes its own times, and its ``update_session`` has to take status and
    counters.

    Args:
        source_storage: a ``WalkvStorageBackend``, or a backend that is an ``IListableStorage``.
        target_storage: any backend.
    Raises:
        ValueError: they are the same.
    """

    def __init__(self, source_storage: Any, target_storage: Any) -> None:
        if source_storage is target_storage:
            raise ValueError("source and target of a migration are the same storage")
        self.source = source_storage
        self.target = target_storage
        self._from = _side(source_storage)
        self._to = _side(target_storage)

    async def migrate_sessions(
        self, batch_size: int = 100, *, progress: Progress | Literal[True] | None = None
    ) -> int:
        """Copy the sessions; returns how many were missing.

        Raises:
            StorageError: some could not be migrated; all others were.
            What ``migrate_all`` raises.
        """
        report = await self.migrate_all(batch_size, kinds=["sessions"], progress=progress)
        if not report.complete:
            reasons = "; ".join(f"{each.id!r}: {each.reason}" for each in report.failures[:3])
            raise StorageError(
                f"{report.copied} sessions were migrated, and {report.failure_count} could not be: "
                f"{reasons or 'some are not in the target'}"
            )
        return report.copied

    async def migrate_all(
        self,
        batch_size: int = 100,
        *,
        kinds: Iterable[str] = KINDS,
        progress: Progress | Literal[True] | None = None,
    ) -> MigrationReport:
        """Copy everything that the target does not have.

        Args:
            batch_size: sessions, contexts or messages that are read and written at a time.
            kinds: some of ``KINDS``, if not all.
            progress: is told how far it is; True for a bar of ``rich`` on the terminal.
        Returns:
            What was done. A record that the target refuses does not stop the others: look at
            ``complete`` and ``failures``.
        Raises:
            ValueError: no such batch size, or no such kind.
            StorageError: the source cannot tell what it has; see ``IListableStorage``.
            StorageConnectionError: a storage does not work. Run it again when it does.
            ImportError: ``progress=True`` without ``rich``.
        Cost: reads the source twice, since records are counted in the end.
        Durability: everything that was copied, on return.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is 1 or more, not {batch_size}")
        kinds = list(kinds)
        for kind in kinds:
            if kind not in LISTS:
                raise ValueError(f"there is no kind {kind!r}; {', '.join(KINDS)}")
            lister(self.source, kind)
        report = MigrationReport()
        with _shown(progress) as show:
            for kind in kinds:
                await self._migrate(kind, batch_size, report, show)
        await self._to.settle()
        return report

    async def _migrate(
        self, kind: str, batch_size: int, report: MigrationReport, show: Progress
    ) -> None:
        ids = await ids_of(self.source, kind)
        counted = [kind, "writes"] if kind == "checkpoints" else [kind]
        report.kinds.update({each: MigratedKind() for each in counted})
        show(kind, 0, len(ids))
        step = batch_size if kind in ("sessions", "task_contexts") else 1
        for start in range(0, len(ids), step):
            some = ids[start : start + step]
            await self._copy_or_note(kind, some, batch_size, report)
            show(kind, start + len(some), len(ids))
        for each in counted:
            report.kinds[each].source_count = await self._from.count(each, ids)
            report.kinds[each].target_count = await self._to.count(each, ids)

    async def _copy_or_note(
        self, kind: str, ids: list[str], batch_size: int, report: MigrationReport
    ) -> None:
        """Copy what is below some ids; if something is refused, what is below each for itself."""
        try:
            await self._copy(kind, ids, batch_size, report.kinds)
        except StorageConnectionError:
            raise
        except _REFUSALS as error:
            if len(ids) > 1:
                for each in ids:
                    await self._copy_or_note(kind, [each], batch_size, report)
                return
            report.failure_count += 1
            if len(report.failures) < _MOST_FAILURES:
                reason = str(error) or type(error).__name__
                report.failures.append(MigrationFailure(kind, ids[0], reason))

    async def _copy(
        self, kind: str, ids: list[str], batch_size: int, done: dict[str, MigratedKind]
    ) -> None:
        if kind == "sessions":
            sessions = await self._from.sessions(ids)
            done[kind].copied += await self._to.put_sessions(sessions)
        elif kind == "task_contexts":
            contexts = await self._from.task_contexts(ids)
            done[kind].copied += await self._to.put_task_contexts(contexts)
        elif kind == "messages":
            position = 0
            async for page in self._from.messages(ids[0], batch_size):
                done[kind].copied += await self._to.put_messages(ids[0], page, position)
                position += len(page)
        else:
            async for checkpoint, writes in self._from.checkpoints(ids[0]):
                checkpoints, written = await self._to.put_checkpoint(checkpoint, writes)
                done[kind].copied += checkpoints
                done["writes"].copied += written


@contextmanager
def _shown(progress: Progress | Literal[True] | None) -> Iterator[Progress]:
    if progress is not True:
        yield progress or (lambda kind, done, total: None)
        return
    try:
        from rich.console import Console
        from rich.progress import Progress as Bars
        from rich.progress import TaskID
    except ImportError as error:
        raise ImportError(
            "progress=True draws with rich, which is not installed: pip install 'walkv[cli]', or "
            "give a function"
        ) from error
    with Bars(console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(kind: str, done: int, total: int) -> None:
            if kind not in tasks:
                tasks[kind] = bars.add_task(kind.replace("_", " "), total=total)
            bars.update(tasks[kind], completed=done)

        yield show
