"""Hold what the demo's agent said against what is in the store and in the effects log.

Invariants:
    1. A record is found only if all of it is as it was acknowledged last; or, if a kill has cut off
       a call that was changing it, as that call leaves it.
    2. No more records are there than were acknowledged, and those that calls which were cut off
       were making.
    3. A step that was acknowledged has one line in the effects log, with the result that the store
       has; no step has two.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import walkv
from walkv import AgentStore, Wal, WriteBack, WriteThrough
from walkv.cli.demo import telling
from walkv.cli.demo.child import STEP_PREFIX
from walkv.cli.demo.effects import Effect
from walkv.cli.demo.trial import Expected, Heard, Place
from walkv.namespaces import codec

POLICY_NAMES: Final = {WriteThrough: "write-through", Wal: "wal", WriteBack: "write-back"}

_NAMESPACES: Final = {telling.TOOL_CALLS: "executions", telling.STEPS: "executions"}
_MOST_PROBLEMS: Final = 20


@dataclass(slots=True)
class Row:
    """The records of one kind.

    Attributes:
        name: one of ``telling.ROWS``.
        records: there are.
        found: of those acknowledged.
        missing: acknowledged and not there.
        wrong: there, and not as acknowledged; or unreadable.
    """

    name: str
    namespace: str
    policy: str
    records: int = 0
    found: int = 0
    missing: int = 0
    wrong: int = 0

    @property
    def lost(self) -> int:
        return self.missing + self.wrong

    @property
    def acknowledged(self) -> int:
        return self.found + self.lost


@dataclass(slots=True)
class Audit:
    """What was found.

    Attributes:
        repeated: steps that took effect more than once, and how often.
        undone: steps that were acknowledged and took no effect.
        in_doubt: steps that the last kill left begun and not ended, and whether they took effect.
        unacknowledged: records that are there although the kill came before their message.
        tool_calls: by status.
        checked_bytes: of the store, against checksums.
        problems: whatever else is wrong, a line each.
    """

    rows: list[Row] = field(default_factory=list)
    effect_count: int = 0
    repeated: dict[str, int] = field(default_factory=dict)
    undone: list[str] = field(default_factory=list)
    in_doubt: list[tuple[str, bool]] = field(default_factory=list)
    unacknowledged: int = 0
    tool_calls: dict[str, int] = field(default_factory=dict)
    checked_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(row.lost for row in self.rows) + len(self.undone)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.repeated or self.problems)


def lost_all(heard: Heard, reason: str) -> Audit:
    """Of a store that cannot be opened."""
    rows = [Row(name, _NAMESPACES.get(name, name), "") for name in telling.ROWS]
    counts = Counter(row for row, _ in heard.expected)
    for row in rows:
        row.missing = counts[row.name]
    return Audit(rows, problems=[reason])


def audit(agent: AgentStore, heard: Heard, effects: list[Effect]) -> Audit:
    """Check everything; see the module."""
    found = Audit(effect_count=len(effects))
    found.rows = [_row(agent, name) for name in telling.ROWS]
    by_name = {row.name: row for row in found.rows}
    for place, expected in heard.expected.items():
        _check(agent, place, expected, by_name[place[0]], found.problems)
    _check_effects(heard, effects, found)
    report = agent.store.verify()
    found.checked_bytes = report.checked_bytes
    found.problems += [*map(str, report.problems)]
    if report.ok:  # what cannot be read can neither be counted
        found.problems += agent.verify()
        _count(agent, heard, found)
        _check_commits(agent, found.problems)
        tool_calls = agent.executions.query(action_type="tool_call")
        found.tool_calls = dict(Counter(each.status for each in tool_calls))
    found.problems += [f"{place} was not as acknowledged" for place in heard.disagreements]
    del found.problems[_MOST_PROBLEMS:]
    return found


def _row(agent: AgentStore, name: str) -> Row:
    namespace = _NAMESPACES.get(name, name)
    sync = Wal() if name == telling.STEPS else agent.by_name[namespace].sync
    return Row(name, namespace, POLICY_NAMES[type(sync)])


def _check(
    agent: AgentStore, place: Place, expected: Expected, row: Row, problems: list[str]
) -> None:
    try:
        record = look_up(agent, place)
    except walkv.WalkvError as error:
        row.wrong += 1
        problems.append(str(error))
        return
    if record is None:
        row.missing += 1
    elif telling.content(record) == expected.content or expected.in_doubt:
        row.found += 1
    else:
        row.wrong += 1


def look_up(agent: AgentStore, place: Place) -> Any:
    """A record, or None."""
    row, key = place
    if row == telling.CHECKPOINTS:
        return agent.checkpoints.get(*key)
    return agent.by_name[_NAMESPACES.get(row, row)].get(key if len(key) > 1 else key[0])


def _count(agent: AgentStore, heard: Heard, found: Audit) -> None:
    """Invariant 2."""
    for row in found.rows:
        row.records = agent.by_name[row.namespace].count()
        if row.namespace == "executions":
            steps = agent.executions.count(action_type="step")
            row.records = steps if row.name == telling.STEPS else row.records - steps
        found.unacknowledged += row.records - row.acknowledged + row.missing
    if found.unacknowledged > sum(run.cut_off.new_count for run in heard.runs if run.cut_off):
        found.problems.append(f"{found.unacknowledged:,} records are there that nobody wrote")


def _check_effects(heard: Heard, effects: list[Effect], found: Audit) -> None:
    """Invariant 3."""
    times = Counter(each.step for each in effects)
    results = {each.step: each.result for each in effects}
    found.repeated = {step: count for step, count in times.items() if count > 1}
    for (row, key), expected in heard.expected.items():
        if row != telling.STEPS:
            continue
        step = str(key[0]).removeprefix(STEP_PREFIX)
        record = codec.decode(expected.content)
        if record["status"] == "running":
            found.in_doubt.append((step, step in times))
        elif step not in times:
            found.undone.append(step)
        elif results[step] != record["output_data"]:
            found.problems.append(f"step {step} has another result than its effect")
    unknown = set(times) - {
        str(key[0]).removeprefix(STEP_PREFIX) for row, key in heard.expected if row == telling.STEPS
    }
    found.problems += [f"step {step} took effect before it had begun" for step in sorted(unknown)]


def _check_commits(agent: AgentStore, problems: list[str]) -> None:
    """What was committed together is there together."""
    for session in agent.sessions.query():
        name, requests = session.session_id, session.request_count
        checkpoints = agent.checkpoints.count(thread_id=name)
        answers = agent.messages.count(name, role="assistant")
        if not requests == checkpoints == answers:
            problems.append(
                f"{name} has {answers:,} answers, {checkpoints:,} checkpoints and a count of "
                f"{requests:,}, which were always committed together"
            )
    pages = agent.workflows.count(status="completed")
    written = sum(user.usage_stats["task_count"] for user in agent.users.query())
    if pages != written:
        problems.append(f"{pages:,} workflows are completed, and the user's count is {written:,}")
