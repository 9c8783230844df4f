"""One workload with faults in it; what must be true after each of them is in ``rules``.

To the steps of ``steps`` come:

    mark        the engine's sync marker, as when the store rests
    follow      a reader is opened, or refreshed, and reads everything
    kills N     killed and opened N times, undisturbed
    litter      killed; the tail torn and files left over; opened
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.laboratory.faults.rules import OPERATIONS_AFTER, TORN, Bench, Failed, Told, check_told
from tests.laboratory.steps import PATH, name_of, open_store, operations_of, perform, policy_of
from walkv import Store, StoreFailedError, WriteBack
from walkv.engine import manifest, segment
from walkv.engine.policies import SyncPolicy
from walkv.testing import Operation
from walkv.testing.faults import SYNCS

_STEPS_AFTER: Final = 3
_STEPS_UNTIL_HEALED: Final = 2
_NO_END: Final = 1_000_000


class Trial(Bench):
    """One case, run step by step."""

    def run(self) -> None:
        """The whole workload, or as much of it as a fault can still have to do with.

        Raises:
            AssertionError: a rule was broken; a note says when.
        """
        try:
            self._sim.on_operation = self._on_operation
            self._open()
            for step in self._case.steps:
                self._moment = step
                self._do(step)
                if self._enough():
                    break
            self._moment = "the end"
            self._end()
        except Exception as error:
            error.add_note(f"in step {self._moment!r} of {self._case}")
            for call in self.fs.failed_calls[:9]:
                error.add_note(f"failed: {call.operation} {call.path}")
            raise

    def _enough(self) -> bool:
        """Whether to stop here; heals what has lasted long enough."""
        if not self.fs.fired:
            return False
        self._steps_since += 1
        if self.fs.lasting:
            if self._steps_since > _STEPS_UNTIL_HEALED:
                self._heal()
            return False
        return self.fs.over and self._steps_since > _STEPS_AFTER

    def _heal(self) -> None:
        self.fs.heal()
        self._steps_since = 0

    # -- steps -----------------------------------------------------------------------------------

    def _do(self, step: str) -> None:
        match name_of(step):
            case "wait":
                self._sim.clock.advance(float(step.split()[1]))
            case "close":
                self._close()
                self._open()
            case "kill":
                self._kill()
                self._open()
            case "kills":
                for _ in range(int(step.split()[1])):
                    self.fs.paused = True
                    self._kill()
                    self._open()
                    self.fs.paused = False
            case "litter":
                # Nothing is appended behind a seal, so nothing is torn there.
                torn = not self._sealed
                self._kill()
                self._litter(torn=torn)
                self._open()
            case "follow":
                self._follow()
            case _:
                self._perform(step)

    def _attempt(self, name: str, action: Callable[[], object]) -> tuple[Told | None, Failed]:
        """Do something that may fail, and see that the right thing is told of it."""
        before = self._failed_count
        error: Told | None = None
        try:
            action()
        except (OSError, StoreFailedError) as raised:
            error = raised
        fs = self.fs
        failed = list(zip(fs.failed_calls[before:], fs.raised[before:], strict=True))
        self._failed_count = len(fs.failed_calls)
        if failed:
            self._steps_since = 0 if not fs.lasting else self._steps_since
            self._sync_failed |= any(call.operation in SYNCS for call, _ in failed)
            check_told(name, error, failed, fs.calls[failed[0][0].number :])
        elif error is not None:
            raise error
        return error, failed

    def _perform(self, step: str) -> None:
        store = self._store
        assert store is not None
        name = name_of(step)
        number = self._model.begun + 1
        operations = operations_of(step, number)
        if operations is not None:
            self._model.begin(operations, now_ms=self._now_ms)
        error, failed = self._attempt(name, self._action(store, step, operations))
        if operations is not None and not isinstance(error, StoreFailedError):
            if error is None or self._happened(name, store):
                self._committed(number, policy_of(step) or self._policy)
            else:
                self._check_refused(error, failed)
                self._model.refuse(number)
        elif step == "sync" and error is None:
            self._model.acknowledge(self._returned)
        if not failed:
            return
        if error is None:
            self._check_untold(step, failed)
        self._look(stopped=isinstance(error, StoreFailedError))
        if isinstance(error, StoreFailedError):
            self._check_stopped(store, error)
            self._kill()
            self._open()

    def _action(
        self, store: Store, step: str, operations: list[Operation] | None
    ) -> Callable[[], object]:
        match name_of(step):
            case "view":
                return lambda: self._view(store)
            case "mark":
                return self._engine(store)._mark_idle
        return lambda: perform(store, step, operations)

    def _view(self, store: Store) -> None:
        view = store.view()
        self._views.append((view, dict(view.scan())))

    def _happened(self, name: str, store: Store) -> bool:
        """Whether a step that failed had committed before; only where more follows the commit."""
        if name not in ("conflict", "phantom"):
            return False
        self.fs.paused = True
        found = dict(store.scan())
        self.fs.paused = False
        return found == self._model.live(now_ms=self._now_ms)

    def _committed(self, number: int, policy: SyncPolicy) -> None:
        self._returned = number
        if self._log_synced or not isinstance(policy, WriteBack):
            self._model.acknowledge(number)

    def _follow(self) -> None:
        def act() -> None:
            if self._follower is None:
                self._follower = open_store(self.fs, read_only=True)
                self._followed = 0
            else:
                self._follower.refresh()
            found = dict(self._follower.scan())
            assert found == self._model.live(now_ms=self._now_ms), "a reader is behind the writer"
            self._followed = self._model.begun

        error, failed = self._attempt("follow", act)
        if failed:
            assert error is not None, f"{failed[0][0]} failed, and the reader was not told"
        if error is not None and self._follower is not None:
            # Not refreshed, it shows what it did before, or a later moment.
            self.fs.paused = True
            found = dict(self._follower.scan())
            self._model.check(found, now_ms=self._now_ms, at_least=self._followed)
            assert self._follower.get_many(found) == list(found.values())
            assert [self._follower.get(key) for key in found] == list(found.values())
            self.fs.paused = False

    def _close(self) -> None:
        store = self._store
        assert store is not None
        error, failed = self._attempt("close", store.close)
        assert store.closed, "not closed"
        store.close()
        self._store = None
        self._views.clear()
        if error is None:
            self._model.acknowledge(self._returned)
        if failed:
            self._look(stopped=error is not None)

    def _kill(self) -> None:
        """The process ends, and with it all that it had open."""
        evicted = self._evicts and self._sync_failed
        if evicted:
            self._returned = self._model.acknowledged
        self._store = self._follower = self._watcher = None
        self._views.clear()
        before, self._sim = self._sim, self._sim.after_kill(evicted=evicted)
        before.kill()
        self.fs.kill()
        self.fs.base = self._sim
        self._sim.on_operation = self._on_operation

    def _litter(self, *, torn: bool) -> None:
        """A torn tail, and files that an interrupted process leaves."""
        sim = self._sim
        if torn:
            first_sequence = manifest.look(sim, PATH).segments[-1]
            file = sim.open(f"{PATH}/log/{segment.file_name(first_sequence)}", writable=True)
            end = len(file.read(0, file.size()).rstrip(b"\0"))
            file.write(TORN, end)
            self._littered = True
        for name, data in {
            "MANIFEST.tmp": b"half a manif",
            "snapshots/0000000099.snap": b"unfinished",
            f"log/{77777:020d}.wal": b"unfinished",
        }.items():
            path = f"{PATH}/{name}"
            if path not in sim.visible().files:
                sim.create(path).write(data, 0)

    def _open(self) -> None:
        """Open, and again until it works; what has lasted is healed after the second time."""
        for attempt in range(2 * len(self._case.spots) + 3):
            if attempt > 1 and self.fs.lasting:
                self._heal()
            if self.fs.fired and self._sync_failed:
                self._watched = _NO_END
            opened: list[Store] = []

            def try_to_open(opened: list[Store] = opened) -> None:
                opened.append(open_store(self.fs, self._policy))

            error, failed = self._attempt("open", try_to_open)
            if failed:
                self._look(stopped=True)
            if error is None:
                self._opened(opened[0], looks=bool(failed))
                return
        raise AssertionError("the store does not open although nothing fails any more")

    def _opened(self, store: Store, *, looks: bool) -> None:
        self._watched = min(self._watched, OPERATIONS_AFTER)
        self._store, self._exists = store, True
        if self.fs.fired and not self.recovered_at:
            self.recovered_at = len(self.fs.calls)
        self.fs.paused, before = True, self.fs.paused
        found = dict(store.scan())
        self.fs.paused = before
        number = self._model.check(found, now_ms=self._now_ms, at_least=self._returned)
        self._model.recovered(number)
        self._returned = number
        self._follower = self._watcher = None
        self._check_evidence()
        if looks or self._sync_failed:
            self._power_fails()

    def _end(self) -> None:
        """Healed, closed and opened once more."""
        self.fs.heal()
        store = self._store
        assert store is not None
        self._check_live(store)
        if not self._new_here("end"):
            return
        half_rotated = self._sealed
        self.fs.paused = True
        store.close()
        self.fs.kill()
        with open_store(self._sim, self._policy) as store:
            # Behind a seal nothing can be written, so nothing can say that it was closed.
            assert store.recovery_report.clean or half_rotated, "a closed store was not clean"
            found = dict(store.scan())
            self._model.check(found, now_ms=self._now_ms, at_least=self._model.begun)
            assert store.verify().ok, "it does not verify"
