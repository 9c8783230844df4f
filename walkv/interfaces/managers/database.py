"""``DatabaseManager``: the store that all managers of an application share.

Layout: a namespace ``manager_counters`` has the last number given for each kind of record. The key
of a record is text; where it is a number, its decimal digits.

Invariants:
    1. A number is given once. The commit that takes it comes before the one of the record that has
       it, and the log is one ordered stream: whatever is lost in a power failure, no record is kept
       whose number would be given again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from walkv.agent import AgentStore
from walkv.engine.keyring import Key
from walkv.engine.policies import WriteBack
from walkv.engine.store import Store
from walkv.engine.store.common import Closing
from walkv.errors import ClosedError
from walkv.interfaces.managers import copying
from walkv.interfaces.managers.errors import NoSqlError
from walkv.namespaces.base import Declaration, Namespace
from walkv.namespaces.keyvalue import Writer

DEFAULT_PATH: Final = "agent_flow.walkv"


@dataclass(frozen=True, slots=True)
class Counter:
    """The last number given for a kind of record."""

    name: str
    last: int


class Counters(Namespace[Counter]):
    """Numbers for records. Policy: ``WriteBack()``; see invariant 1 of the module."""

    declaration = Declaration("manager_counters", Counter, key="name", sync=WriteBack())

    def take(self, name: str, count: int = 1) -> int:
        """The first of ``count`` numbers that were never given before; they begin with 1."""
        packed = self.table.packed_key(name)

        def run(tx: Writer) -> int:
            old = tx.get(self.table.records + packed)
            last = 0 if old is None else self._record(old).last
            values = self.table.schema.checked([name, last + count])
            self.write_in(tx, packed, values, old, None)
            return last + 1

        return self._write(run, None)


class DatabaseManager(Closing):
    """Opens the store of an application. A context manager that closes on leaving; thread-safe.

    Args:
        db_path: of the store; or an open ``Store`` or ``AgentStore``, which is left open.
        options: as for ``AgentStore``, for a path only.
    Raises:
        What ``walkv.open`` raises.

    Attributes:
        db_path: the store's directory, absolute.
    """

    def __init__(self, db_path: Any = DEFAULT_PATH, **options: Any) -> None:
        self._given = db_path if isinstance(db_path, Store | AgentStore) else None
        if self._given is not None and options:
            raise TypeError(f"this store is open already, so it takes no {min(options)}")
        self._options = options
        self.db_path: str = (
            os.path.abspath(os.fsdecode(db_path)) if self._given is None else self._given.path
        )
        self._lock = threading.RLock()
        self._agent: AgentStore | None = None
        self._counters: Counters | None = None
        self._before_close: list[Callable[[], None]] = []
        self.open()

    def __repr__(self) -> str:
        state = "closed" if self._agent is None else "open"
        return f"<walkv.DatabaseManager {self.db_path!r} {state}>"

    def open(self) -> None:
        """Open the store again after ``close``, and all managers with it; open, nothing happens."""
        with self._lock:
            if self._agent is not None:
                return
            agent = self._open()
            try:
                self._counters = cast(Counters, agent.namespace(Counters.declaration, cls=Counters))
            except BaseException:
                if self._given is None:
                    agent.close()
                raise
            self._agent = agent

    def _open(self) -> AgentStore:
        if isinstance(self._given, AgentStore):
            return self._given
        if self._given is not None:
            return AgentStore(self._given)
        if not self._options.get("read_only"):
            copying.finish_replacement(self.db_path)
        return AgentStore(self.db_path, **self._options)

    @property
    def key(self) -> Key | None:
        """What the store is opened with, and its backups; None if no key was given."""
        return self._options.get("key")

    @property
    def agent(self) -> AgentStore:
        """The open store.

        Raises:
            ClosedError: it was closed.
        """
        agent = self._agent
        if agent is None:
            raise ClosedError(f"{self.db_path}: this store was closed; open() it again to use it")
        return agent

    @contextmanager
    def get_connection(self) -> Iterator[AgentStore]:
        """The ``AgentStore`` for a ``with`` block. It is one for all, and stays open."""
        yield self.agent

    def take_number(self, name: str, count: int = 1) -> int:
        """The first of ``count`` new numbers for a kind of record; see ``Counters.take``."""
        agent, counters = self.agent, self._counters
        assert counters is not None, agent
        return counters.take(name, count)

    def execute_query(self, query: str, params: tuple[Any, ...] = ()) -> NoReturn:
        """Not offered: there is no SQL. Raises ``NoSqlError``, which says what there is."""
        self._refuse("agent.tasks.query(status='failed').order_by('-created_at').all()")

    def execute_update(self, query: str, params: tuple[Any, ...] = ()) -> NoReturn:
        """Not offered: there is no SQL. Raises ``NoSqlError``, which says what there is."""
        self._refuse("agent.tasks.update(task_id, status='completed')")

    def execute_insert(self, query: str, params: tuple[Any, ...] = ()) -> NoReturn:
        """Not offered: there is no SQL. Raises ``NoSqlError``, which says what there is."""
        self._refuse("agent.tasks.create(session_id, user_input)")

    def _refuse(self, example: str) -> NoReturn:
        raise NoSqlError(
            "a walkv store has no SQL: use a manager, or the namespaces themselves, as in "
            f"`with db_manager.get_connection() as agent: {example}`"
        )

    def before_close(self, function: Callable[[], None]) -> None:
        """Have a function called whenever the store is about to be closed."""
        self._before_close.append(function)

    def close(self) -> None:
        """Stop what works on the store, and close it unless it was given open. Closing twice is
        allowed.

        Durability: everything that was committed is durable.
        """
        for function in self._before_close:
            function()
        with self._lock:
            agent, self._agent = self._agent, None
            if agent is not None and self._given is None:
                agent.close()
