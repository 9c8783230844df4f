"""What must be true after a fault, held against a machine, its store and a model.

- A failed sync is told as ``StoreFailedError`` with that very error as its cause, from then on
  for everything; nothing is synced or written again.
- Any other failed call is told as an ``OSError`` with the same ``errno``, or not at all where
  the caller loses nothing by it. The store goes on, and the commit has left no trace.
- The live store holds what was acknowledged, and so does a reader that opens now.
- Killed and opened again, the store is a legal prefix, verifies, and goes on.
- If the power fails, now, at the next operations, or during the recovery that follows, what was
  acknowledged is there. What a recovered store has served is durable, also after a failed sync.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from itertools import islice
from random import Random
from typing import Final

from xxhash import xxh3_64_digest

from tests.laboratory.crashes import Memory
from tests.laboratory.faults.script import CHANGES, KINDS, Case, FaultScript
from tests.laboratory.job import Figures
from tests.laboratory.steps import POLICIES, name_of, open_store, operations_of
from walkv import Store, StoreFailedError, View, WriteBack
from walkv.engine.core import Engine
from walkv.engine.policies import SyncPolicy
from walkv.testing import Call, Disk, LostError, ModelStore, SimulatedFileSystem
from walkv.testing.faults import SYNCS
from walkv.testing.medium import Node, SimulatedFile

State = dict[bytes, bytes]
Told = OSError | StoreFailedError
Failed = list[tuple[Call, OSError]]

TORN: Final = b"\0\0\0" + b"torn" * 100
OPERATIONS_AFTER: Final = 2
_MANY_STATES: Final = (20, 60, 60, 400)
_READ_AGAIN: Final = frozenset(("read", "follow", "view"))


def check_told(name: str, error: Told | None, failed: Failed, calls: list[Call]) -> None:
    """What reached the caller is the error that was injected, or says that it was its cause.

    Args:
        failed: the calls that failed meanwhile, and with what.
        calls: all calls since the first of those.
    """
    synced = [(call, raised) for call, raised in failed if call.operation in SYNCS]
    if error is None:
        assert not synced, f"{name}: nobody was told that {synced[0][0]} failed"
        return
    raised_now = [raised for _, raised in failed]
    if isinstance(error, StoreFailedError):
        assert synced or len(failed) > 1, f"{name}: stopped by a failure that could be undone"
        cause = synced[0][1] if synced else error.__cause__
        assert error.__cause__ is cause, f"{name}: the cause is {error.__cause__!r}, not {cause!r}"
        assert any(cause is raised for raised in raised_now), f"{name}: {cause!r} did not happen"
        at = next(call.number for call, raised in failed if raised is cause)
        again = [c for c in calls if c.number > at and c.operation in CHANGES - {"unlink"} | SYNCS]
        assert not again, f"{name}: {again[0]} after a failure that stopped the store"
        return
    assert not synced, f"{name}: the failed sync {synced[0][0]} was told as {error!r}"
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__
    found = [raised for raised in raised_now if any(raised is link for link in chain)]
    assert found, f"{name}: {error!r} does not lead back to what failed"
    assert error.errno == found[0].errno, f"{name}: {error!r} hides {found[0]!r}"
    if error is not found[0]:
        assert name not in _READ_AGAIN, f"{name}: the error of a read was changed: {error!r}"
        assert str(error) != str(found[0]), f"{name}: {error!r} adds nothing"


def machine_digest(machine: SimulatedFileSystem) -> bytes:
    """Equal for machines of which neither a kill nor a power failure can leave different things."""
    parts: list[object] = []
    for path, directory in machine._directories.items():
        parts += [path, [_names(directory.entries), _names(directory.base)]]
        parts += [_names(dict(changes)) for changes in directory.pending]
    return xxh3_64_digest(repr(parts).encode())


def _names(nodes: Mapping[str, Node | None]) -> list[tuple[str, object]]:
    return [(name, _node(node)) for name, node in sorted(nodes.items())]


def _node(node: Node | None) -> object:
    if not isinstance(node, SimulatedFile):
        return node is None
    pending = [(at, data and xxh3_64_digest(data)) for at, data in node.pending]
    return xxh3_64_digest(node.data), xxh3_64_digest(node.base), pending, node._lost


class Bench:
    """A machine, the store that runs on it, and what is known of both.

    Attributes:
        fs: what fails; its ``calls`` are those of the whole run.
        recovered_at: how many of them there were when a store was first open again after a fault.
    """

    def __init__(
        self,
        case: Case,
        memory: Memory,
        looked: set[Hashable],
        chooser: Random,
        figures: Figures,
        *,
        seed: int = 0,
        sample: int = 2,
    ) -> None:
        """``looked`` keeps what was looked at before, so that it is not looked at again; ``sample``
        is how many states a power failure is tried with at each moment."""
        self._sample_count = sample
        self._case = case
        self._policy: SyncPolicy = POLICIES[case.policy]
        self._memory = memory
        self._looked = looked
        self._chooser = chooser
        self._figures = figures
        self._evicts = seed % 2 == 1
        self._sim = SimulatedFileSystem(seed=seed)
        self.fs = FaultScript(self._sim, case.spots)
        self.recovered_at = 0
        self._model = ModelStore()
        self._store: Store | None = None
        self._follower: Store | None = None
        self._watcher: Store | None = None
        self._followed = 0
        self._views: list[tuple[View, State]] = []
        self._expiring = any(name_of(step) == "expire" for step in case.steps)
        self._returned = 0
        self._exists = False
        self._log_synced = False
        self._littered = False
        self._evidence = False
        self._sync_failed = False
        self._failed_count = 0
        self._steps_since = 0
        self._watched = 0
        self._moment = "open"

    @property
    def _now_ms(self) -> int:
        return self._sim.clock.wall_ns // 1_000_000

    @property
    def _sealed(self) -> bool:
        """Whether a rotation has failed half way."""
        assert self._store is not None
        return self._engine(self._store).write_log.sealed

    def _engine(self, store: Store) -> Engine:
        engine = store.engine
        assert isinstance(engine, Engine)
        return engine

    def _log_failed(self, error: OSError) -> bool:
        """Whether it was a sync of the log that raised this."""
        at = next(n for n, raised in enumerate(self.fs.raised) if raised is error)
        call = self.fs.failed_calls[at]
        return call.operation == "sync_data" and call.path.endswith(".wal")

    # -- what the caller was told ----------------------------------------------------------------

    def _check_refused(self, error: Told, failed: Failed) -> None:
        if any(call.operation in CHANGES for call, _ in failed):
            assert "before it is kept" in str(error), f"not told what to do: {error}"

    def _check_untold(self, step: str, failed: Failed) -> None:
        """What may fail without a word: work for later, and the zeros ahead of a commit."""
        call, error = failed[0]
        if not call.path.endswith(".wal") or call.operation not in ("write", "create", "rename"):
            return
        ahead = error.errno != KINDS["EIO"][0] and call.operation == "write"
        commits = operations_of(step, 1) is not None
        assert (commits and ahead) or self.fs.lasting, f"{call} failed, and nobody was told"

    def _check_stopped(self, store: Store, error: StoreFailedError) -> None:
        """A store that has failed says so to everybody, and calls nothing any more."""
        attempts: list[Callable[[], object]] = [
            lambda: store.put(b"x", b"y"),
            lambda: store.put(b"x", b"y", sync=WriteBack()),
            lambda: store.get(b"a"),
            lambda: list(store.scan()),
            store.sync,
            store.compact,
            store.close,
        ]
        if isinstance(error.__cause__, OSError) and self._log_failed(error.__cause__):
            # Whoever waited for the same sync comes through here.
            attempts.insert(0, self._engine(store).write_log.sync)
        before = len(self.fs.calls)
        for attempt in attempts:
            try:
                attempt()
            except StoreFailedError as again:
                cause = again.__cause__
            else:
                raise AssertionError("a store that has failed went on")
            assert cause is error.__cause__, "another cause than the first time"
        store.close()
        touched = [c for c in self.fs.calls[before:] if c.operation in CHANGES | SYNCS]
        assert not touched, f"a store that had failed: {touched[0]}"

    # -- looks -----------------------------------------------------------------------------------

    def _look(self, *, stopped: bool) -> None:
        """Everything that must be true after a fault.

        Args:
            stopped: the store has failed, or is not open.
        """
        self._power_fails()
        self._watched = OPERATIONS_AFTER
        self._check_reader(stopped)
        if not stopped and self._store is not None:
            self._check_live(self._store)
        self._check_killed(evicted=False)
        if self._sync_failed:
            self._check_killed(evicted=True)

    def _check_live(self, store: Store) -> None:
        self.fs.paused = True
        found = dict(store.scan())
        self._model.check(found, now_ms=self._now_ms, at_least=self._model.begun)
        assert store.get_many(found) == list(found.values())
        for view, state in self._views:
            seen = dict(view.scan())
            assert seen == {key: state[key] for key in seen}, "a view sees what came after it"
            assert self._expiring or seen == state, "a view has lost what was there"
        self.fs.paused = False

    def _check_reader(self, stopped: bool) -> None:
        """A reader that opens at this moment."""
        if not self._new_here("reader", stopped, self._returned):
            return
        try:
            reader = open_store(self._sim, read_only=True)
        except FileNotFoundError:
            assert not self._exists, "a reader finds no store"
            return
        least = self._returned if stopped else self._model.begun
        self._model.check(dict(reader.scan()), now_ms=self._now_ms, at_least=least)

    def _check_killed(self, *, evicted: bool) -> None:
        """Killed here, and opened on a disk that works again; and the power fails meanwhile."""
        if not self._new_here("killed", evicted, self._returned):
            return
        machine = self._sim.after_kill(evicted=evicted)
        disks: list[Disk] = []
        machine.on_operation = lambda *_: disks.extend(self._sample(machine))
        store = open_store(machine, self._policy)
        found = dict(store.scan())
        least = self._model.acknowledged if evicted else self._returned
        self._model.check(found, now_ms=self._now_ms, at_least=least)
        self._figures.counts["recoveries after faults"] += 1
        for disk in disks:
            self._check_disk(disk)
        self._check_served(machine, [found])
        store.put(b"more", b"1")
        self._check_served(machine, [{**found, b"more": b"1"}] + [found] * self._writes_back)
        assert store.verify().ok, "what was recovered does not verify"
        store.close()
        with open_store(machine, self._policy) as store:
            assert dict(store.scan()) == {**found, b"more": b"1"}, "not the same when opened again"

    @property
    def _writes_back(self) -> bool:
        return isinstance(self._policy, WriteBack)

    def _check_served(self, machine: SimulatedFileSystem, legal: list[State]) -> None:
        for disk in self._sample(machine):
            state = self._memory.recovered(disk, self._sim.clock.wall_ns, expiring=self._expiring)
            if state not in legal:
                raise LostError("acknowledged and not there: a recovered store had served it")

    def _on_operation(self, operation: str, path: str) -> None:
        if path.endswith(".wal"):
            self._log_synced = operation in SYNCS
            if self._log_synced and self._store is not None:
                self._model.acknowledge(self._returned)
        if operation == "write" and path.endswith(".wal") and self._follower is not None:
            self._watch()
        if self._watched > 0:
            self._watched -= 1
            self._power_fails()

    def _watch(self) -> None:
        """Another process follows the log, just when what may be taken back was written."""
        if self._watcher is None:
            self._watcher = open_store(self._sim, read_only=True)
        self._watcher.refresh()
        found = dict(self._watcher.scan())
        self._model.check(found, now_ms=self._now_ms, at_least=self._returned)

    def _new_here(self, *about: Hashable) -> bool:
        """Whether this machine has not been looked at before, with the same rules to hold."""
        model = self._model
        legal = range(model.acknowledged, model.begun + 1)
        states = [model.live(now_ms=self._now_ms, number=number) for number in legal]
        rules = hash(tuple(tuple(state.items()) for state in states))
        key = (
            *about,
            self._writes_back,
            self._exists,
            self._now_ms,
            rules,
            machine_digest(self._sim),
        )
        if key in self._looked:
            return False
        self._looked.add(key)
        return True

    def _power_fails(self) -> None:
        if not self._new_here("power"):
            return
        for disk in self._sample(self._sim):
            self._check_disk(disk)

    def _sample(self, fs: SimulatedFileSystem) -> list[Disk]:
        # Often the first ones are enough to choose from, and listing all of them takes long.
        most = self._chooser.choice(_MANY_STATES)
        disks = list(islice(fs.crash_states(self._chooser), most))
        self._figures.counts["power failures after faults"] += 1
        chosen = self._chooser.sample(disks, min(len(disks), self._sample_count))
        return [disks[0], *chosen]  # always the one where nothing has arrived

    def _check_disk(self, disk: Disk) -> None:
        self._figures.counts["crash states after faults"] += 1
        wall_ns = self._sim.clock.wall_ns
        found = self._memory.recovered(disk, wall_ns, expiring=self._expiring)
        self._check_kept(disk)
        if found is not None:
            self._model.check(found, now_ms=self._now_ms)
        elif self._exists:
            raise LostError("acknowledged and not there: the store itself")

    def _check_evidence(self) -> None:
        """What was torn is kept, from now on and after a power failure as well."""
        self._evidence = self._littered
        self._check_kept(self._sim.visible())

    def _check_kept(self, disk: Disk) -> None:
        if self._evidence:
            saved = [data for path, data in disk.files.items() if path.endswith(".torn")]
            assert any(TORN.lstrip(b"\0") in data for data in saved), "what was cut was not kept"
