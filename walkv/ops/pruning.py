"""Deleting what an agent has kept long enough: old checkpoints, sessions, contexts, executions.

What may go is each namespace's to say, and each goes with all that belongs to it: a session with
its messages, a checkpoint with the parts that nothing else needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from walkv.namespaces.base import Namespace
from walkv.namespaces.checkpoints.upkeep import CheckpointUpkeep
from walkv.namespaces.contexts import Contexts
from walkv.namespaces.executions import Execution
from walkv.namespaces.messages import Messages
from walkv.namespaces.query import Query
from walkv.namespaces.sessions import Session, Sessions
from walkv.namespaces.steps import Executions


class Rules(NamedTuple):
    """What is old. A rule that is None deletes nothing; two for checkpoints have both to be met.

    Attributes:
        checkpoints_keep: of each thread and checkpoint namespace the newest so many stay.
        checkpoints_seconds: checkpoints put longer ago go; the newest of each thread stays, unless
            ``checkpoints_keep`` is 0.
        sessions_seconds: sessions in which nothing has happened for so long go, messages and all.
        messages_keep: of each session the newest so many messages stay.
        contexts_seconds: contexts that have not changed for so long go.
        executions_seconds: executions begun longer ago go; steps of ``once`` stay, since a step
            that is forgotten would be run again.
    """

    checkpoints_keep: int | None = None
    checkpoints_seconds: float | None = None
    sessions_seconds: float | None = None
    messages_keep: int | None = None
    contexts_seconds: float | None = None
    executions_seconds: float | None = None


class Pruned(NamedTuple):
    """What was deleted of one namespace, or would be.

    Attributes:
        freed_bytes: of parts of checkpoints that nothing needs any more; None where it is not
            known, as in a dry run.
    """

    namespace: str
    record_count: int
    freed_bytes: int | None = None


def prune(
    namespaces: Mapping[str, Namespace[Any]], rules: Rules, *, dry_run: bool = False
) -> Iterator[Pruned]:
    """Delete what is old by the rules, a namespace at a time.

    Args:
        namespaces: by name, as ``AgentStore.by_name`` has them; whatever keeps checkpoints is
            pruned by the rules for checkpoints, and what no rule is for is left alone.
        dry_run: only count.
    Cost: commits as of ``Query.delete`` and ``Checkpoints.prune``: others write in between, and
        whoever is interrupted calls again.
    """
    for name, namespace in namespaces.items():
        done = None
        if isinstance(namespace, CheckpointUpkeep):
            done = _checkpoints(namespace, rules, dry_run)
        elif isinstance(namespace, Sessions) and rules.sessions_seconds is not None:
            done = Pruned(name, _sessions(namespace, rules.sessions_seconds, dry_run))
        elif isinstance(namespace, Messages) and rules.messages_keep is not None:
            done = Pruned(name, _messages(namespace, rules.messages_keep, dry_run))
        elif isinstance(namespace, Contexts) and rules.contexts_seconds is not None:
            limit = namespace.now() - timedelta(seconds=rules.contexts_seconds)
            done = Pruned(name, _found(namespace.query().where(last_updated__lt=limit), dry_run))
        elif isinstance(namespace, Executions) and rules.executions_seconds is not None:
            done = Pruned(name, _executions(namespace, rules.executions_seconds, dry_run))
        if done is not None:
            yield done


def _checkpoints(namespace: CheckpointUpkeep, rules: Rules, dry_run: bool) -> Pruned | None:
    keep, seconds = rules.checkpoints_keep, rules.checkpoints_seconds
    if keep is None and seconds is None:
        return None
    older_than = None if seconds is None else namespace.now() - timedelta(seconds=seconds)
    done = namespace.prune(keep_last=keep, older_than=older_than, dry_run=dry_run)
    freed_bytes = None if dry_run else done.freed_bytes
    return Pruned(namespace.name, done.checkpoint_count, freed_bytes)


def _sessions(sessions: Sessions, seconds: float, dry_run: bool) -> int:
    if not dry_run:
        return sessions.cleanup_expired(seconds / 3600)
    limit = sessions.now() - timedelta(seconds=seconds)
    with sessions.moment() as reader:

        def idle(session: Session) -> bool:
            ids = session.session_id
            moments = (each.last_activity(reader, ids) for each in sessions.dependents)
            return all(moment is None or moment < limit for moment in moments)

        return sum(map(idle, sessions.query().where(updated_at__lt=limit).walk(reader)))


def _messages(messages: Messages, keep: int, dry_run: bool) -> int:
    count = 0
    for session_id in _session_ids(messages):
        newest = messages.history(session_id, limit=keep)
        if len(newest) < keep:
            continue
        query = messages.query(session_id=session_id)
        count += _found(query.where(seq__lt=newest[0].seq) if newest else query, dry_run)
    return count


def _session_ids(messages: Messages) -> Iterator[str]:
    """The sessions that have messages, whether there is a record of them or not."""
    query = messages.query().order_by("session_id", "seq").limit(1)
    found = query.first()
    while found is not None:
        yield found.session_id
        found = query.where(session_id__gt=found.session_id).first()


def _executions(executions: Executions, seconds: float, dry_run: bool) -> int:
    if not dry_run:
        return executions.cleanup_old(seconds / 86_400)
    limit = executions.now() - timedelta(seconds=seconds)
    query: Query[Execution] = executions.query()
    return query.where(started_at__lt=limit, action_type__ne="step").count()


def _found(query: Query[Any], dry_run: bool) -> int:
    return query.count() if dry_run else query.delete()
