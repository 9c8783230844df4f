"""The agent that the demo kills: it reads a folder, file by file, and keeps an index of it.

It goes round and round the folder until it is killed. A round is a session; its files are taken in
chapters of a dozen, each of them a workflow in which a reader reads the files and a writer then
writes the index page. A step, of a file or a page, is three calls:

    ask      a message: the user asks for it
    once     the step itself, with the tool calls in it; its result is recorded
    answer   one commit: the assistant's message, the session's counters, the statuses of the
             workflow, and a checkpoint with the index so far

Invariants:
    1. All that it knows between two steps is in the checkpoint, so it goes on from there.
    2. A step takes effect by a line in the effects log, inside ``once``. What is done before that
       may be done again; what is done after it is recorded by ``once``.
    3. Of a step that had begun and not ended, the log tells whether it took effect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgpack
from xxhash import xxh3_64_intdigest

import walkv
from walkv import RUN_AGAIN, AgentStore
from walkv.cli.demo import facts, telling
from walkv.cli.demo.effects import ABSENT, Effects
from walkv.cli.demo.folder import read_file
from walkv.cli.demo.telling import call, tell, tell_found
from walkv.cli.text import escaped, one_line
from walkv.namespaces.executions import Execution, Recording
from walkv.namespaces.sessions import Session

USER: Final = "demo"
READER: Final = "reader"
WRITER: Final = "writer"
STEP_PREFIX: Final = "step/"

_CHAPTER_FILES: Final = 12
_LONGEST_LABEL: Final = 100
_SLOW_ONE_IN: Final = 6
_MOST_ATTEMPTS: Final = 3


class Chapter(NamedTuple):
    """Files of one directory."""

    title: str
    paths: list[bytes]


class Step(NamedTuple):
    """One step of a round; ``path`` is None where the page is written."""

    number: int
    chapter_number: int
    chapter: Chapter
    path: bytes | None

    @property
    def about(self) -> str:
        """What it reads or writes."""
        name = f"index of {self.chapter.title}" if self.path is None else escaped(self.path)
        return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 3]}..."


def chapters(paths: list[bytes]) -> list[Chapter]:
    """The chapters of a folder: files that lie together, a dozen at most."""
    made: list[Chapter] = []
    for directory, found in groupby(paths, os.path.dirname):
        title = escaped(directory) or "the folder"
        files = list(found)
        for start in range(0, len(files), _CHAPTER_FILES):
            part = f", part {start // _CHAPTER_FILES + 1}" if start else ""
            made.append(Chapter(f"{title}{part}", files[start : start + _CHAPTER_FILES]))
    return made


def steps_of(parts: list[Chapter]) -> list[Step]:
    """The steps of one round."""
    steps: list[Step] = []
    for number, chapter in enumerate(parts):
        for path in (*chapter.paths, None):
            steps.append(Step(len(steps), number, chapter, path))
    return steps


def is_slow(path: bytes) -> bool:
    """Whether the tool that reads a file times out at first: a file always does, or never."""
    return xxh3_64_intdigest(path) % _SLOW_ONE_IN == 0


class Agent:
    """See the module."""

    def __init__(self, store: AgentStore, root: bytes, paths: list[bytes], log: Effects) -> None:
        self.store = store
        self.root = root
        self.steps = steps_of(chapters(paths))
        self.log = log
        self.session_id = ""
        self.state: dict[str, Any] = {}

    # -- rounds ----------------------------------------------------------------------------------

    def work(self) -> None:
        """Go round the folder for ever, from where the store says that it was."""
        round_number = self.resume()
        while True:
            for step in self.steps[self.state["next"] :]:
                tell(telling.STEP, round_number, step.number + 1, len(self.steps), step.about)
                self.do(step)
            round_number += 1
            self.begin_round(round_number)

    def resume(self) -> int:
        """Find what was going on; returns the number of the round."""
        executions = self.store.executions
        cut_off = [
            *executions.list(role=READER, status="running"),
            *executions.list(role=WRITER, status="running"),
        ]
        report = self.store.store.recovery_report
        elapsed_ms = report.elapsed_seconds * 1e3
        found = (report.created, report.frame_count, report.cut_bytes, elapsed_ms)
        tell(telling.OPENED, *found, len(cut_off))
        for execution in cut_off:
            self.close(execution)
        user = self.store.users.get(USER)
        tell_found(user)
        if user is None:
            with call("adding the user", new=1) as returned:
                returned.append(self.store.users.create(USER, {"language": "en"}))
        sessions = self.store.sessions.scan(reverse=True, limit=1)
        if not sessions:
            self.begin_round(1)
            return 1
        self.go_on(sessions[0])
        return int(sessions[0].session_id.rpartition("-")[2])

    def close(self, execution: Execution) -> None:
        """A tool call of the last process that did not end never will."""
        with call("closing a tool call", [telling.place(execution)]) as returned:
            closed = self.store.executions.finish(
                execution.execution_id, status="cancelled", error_message="its process was killed"
            )
            returned.append(closed)

    def begin_round(self, number: int) -> None:
        """The session of the last round ends, and a new one begins with an empty index."""
        last, self.session_id = self.session_id, f"round-{number:04d}"
        places = [("sessions", (last,))] if last else []
        with call("beginning a session", places, new=1) as returned, self.store.batch():
            if last:
                returned.append(self.store.sessions.end(last))
            returned.append(self.store.sessions.create(self.session_id, USER))
        self.state = new_state()

    def go_on(self, session: Session) -> None:
        """Take up a session where its last checkpoint is."""
        self.session_id = session.session_id
        checkpoint = self.store.checkpoints.get(self.session_id)
        self.state = new_state() if checkpoint is None else checkpoint.data
        messages = self.store.messages.history(self.session_id, limit=2)
        around = self.steps[max(self.state["next"] - 1, 0) : self.state["next"] + 1]
        workflow_ids = {self.workflow_id(step) for step in around}
        tell_found(session, checkpoint, *messages, *self.store.workflows.get_many(workflow_ids))

    # -- a step ----------------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """One step, whatever of it is done already."""
        self.begin_workflow(step)
        self.ask(step)
        result = self.once(step)
        self.answer(step, result)
        tell(telling.ENDED, self.key(step))

    def key(self, step: Step) -> str:
        """What a step is called: once in this store, and the same after a restart."""
        return f"{self.session_id}/{step.number + 1:05d} {step.about}"

    def workflow_id(self, step: Step) -> str:
        return f"{self.session_id}/{step.chapter_number + 1:04d}"

    def begin_workflow(self, step: Step) -> None:
        workflow_id = self.workflow_id(step)
        if self.store.workflows.exists(workflow_id):
            return
        with call("beginning a workflow", new=1) as returned, self.store.batch():
            workflows = self.store.workflows
            workflows.create(
                f"index {step.chapter.title}",
                [READER, WRITER],
                workflow_id=workflow_id,
                created_by=USER,
                metadata={"files": len(step.chapter.paths)},
            )
            workflows.update_status(workflow_id, "running")
            returned.append(workflows.update_role_status(workflow_id, READER, "running"))

    def ask(self, step: Step) -> None:
        content = f"What is in {step.about}?" if step.path else f"Write the {step.about}."
        message_id = f"{step.number + 1:05d}-question"
        try:
            with call("storing the question", new=1) as returned:
                append = self.store.messages.append
                asked = append(self.session_id, role="user", content=content, message_id=message_id)
                returned.append(asked)
        except walkv.RecordExistsError:
            found = self.store.messages.query(message_id=message_id, session_id=self.session_id)
            tell_found(found.first())

    def once(self, step: Step) -> Any:
        """The step itself, exactly once."""
        executions = self.store.executions
        key = self.key(step)
        step_place = (telling.STEPS, (f"{STEP_PREFIX}{key}",))
        pending = telling.Call("recording that the step begins", [step_place], new=1)
        done = False

        def run() -> Any:
            nonlocal pending, done
            pending.done(executions.get(f"{STEP_PREFIX}{key}"))
            result = self.write(step, key) if step.path is None else self.read(step, step.path, key)
            pending = telling.Call("recording the result of the step", [step_place])
            done = True
            return result

        def recover(execution: Execution) -> Any:
            nonlocal done
            result = self.log.find(key)
            tell(telling.DOUBT, key, result is not ABSENT)
            if result is ABSENT:
                return RUN_AGAIN
            done = True
            return result

        run.__qualname__ = "index_folder" if step.path is None else "index_file"
        result = executions.once(key, run, on_indeterminate=recover)
        record = executions.get(f"{STEP_PREFIX}{key}")
        if done:
            pending.done(record)
        else:
            pending.done()
            tell_found(record)
            tell(telling.RECALLED, key)
        return result

    def read(self, step: Step, path: bytes, key: str) -> facts.Facts:
        """The reader's step."""
        try:
            data = self.use(READER, step, "read_file", lambda attempt: self.data_of(path, attempt))
        except OSError as error:
            found: facts.Facts = {"unreadable": error.strerror or str(error)}
            tell(telling.SKIPPED, path, found["unreadable"])
        else:
            found = self.use(READER, step, "extract_facts", lambda _: facts.extract(path, data))
        self.take_effect(key, found)
        return found

    def data_of(self, path: bytes, attempt: int) -> bytes:
        if attempt == 1 and is_slow(path):
            raise TimeoutError(f"no answer for {escaped(path)[:_LONGEST_LABEL]} in time")
        data, _ = read_file(os.path.join(self.root, path))
        return data

    def write(self, step: Step, key: str) -> dict[str, str]:
        """The writer's step."""
        names = [escaped(path) for path in step.chapter.paths]
        files = {name: self.state["files"][name] for name in names}

        def make(_: int) -> str:
            return facts.page(step.chapter.title, files)

        page = {"page": self.use(WRITER, step, "write_page", make)}
        self.take_effect(key, page)
        return page

    def take_effect(self, key: str, result: Any) -> None:
        with call("writing to the effects log"):
            self.log.append(key, result)

    # -- tools -----------------------------------------------------------------------------------

    def use(self, role: str, step: Step, tool: str, function: Callable[[int], Any]) -> Any:
        """Call a tool; again, if it times out."""
        for attempt in range(1, _MOST_ATTEMPTS):
            try:
                return self.attempt(role, step, tool, function, attempt)
            except TimeoutError:
                continue
        return self.attempt(role, step, tool, function, _MOST_ATTEMPTS)

    def attempt(
        self, role: str, step: Step, tool: str, function: Callable[[int], Any], attempt: int
    ) -> Any:
        with self.recorded(role, step, tool, attempt) as recording:
            result = function(attempt)
            kept = {"size_bytes": len(result)} if isinstance(result, bytes) else result
            recording.output = kept
        return result

    @contextmanager
    def recorded(self, role: str, step: Step, tool: str, attempt: int) -> Iterator[Recording]:
        """As ``executions.record``, with a word about each of its two calls."""
        executions = self.store.executions
        pending = telling.Call(f"recording that {tool} begins", new=1)
        recording = None
        try:
            with executions.record(
                role=role,
                tool_name=tool,
                input_data={"about": step.about, "attempt": attempt},
                workflow_id=self.workflow_id(step),
            ) as recording:
                pending.done(recording.execution)
                try:
                    yield recording
                finally:
                    place = telling.place(recording.execution)
                    pending = telling.Call(f"recording how {tool} ended", [place])
        finally:
            if recording is not None:
                pending.done(executions.get(recording.execution.execution_id))

    # -- what comes of a step --------------------------------------------------------------------

    def answer(self, step: Step, result: Any) -> None:
        """Everything that follows from a step, in one commit."""
        state, store = self.state, self.store
        state["next"] = step.number + 1
        if step.path is None:
            state["pages"][self.workflow_id(step)] = result["page"]
            content = result["page"]
        else:
            state["files"][escaped(step.path)] = result
            state["total_bytes"] += result.get("size_bytes", 0)
            content = facts.describe(step.about, result)
        workflow = ("workflows", (self.workflow_id(step),))
        session = ("sessions", (self.session_id,))
        user = ("users", (USER,))
        what = "committing answer, counters and checkpoint together"
        with call(what, [workflow, session, user], new=2) as returned, store.batch():
            returned.append(
                store.messages.append(
                    self.session_id,
                    role="assistant",
                    content=content,
                    message_id=f"{step.number + 1:05d}-answer",
                )
            )
            returned.append(store.sessions.update(self.session_id, increment_requests=True))
            returned.extend(self.advance(step))
            returned.append(
                store.checkpoints.put(
                    self.session_id,
                    f"{step.number + 1:05d}",
                    state,
                    parent_id=f"{step.number:05d}" if step.number else None,
                    metadata={"step": step.about},
                )
            )

    def advance(self, step: Step) -> Iterator[Any]:
        """The workflow after a step, if it has come further with it."""
        workflows, workflow_id = self.store.workflows, self.workflow_id(step)
        if step.path is None:
            workflows.update_role_status(workflow_id, WRITER, "completed", self.key(step))
            yield workflows.update_status(workflow_id, "completed")
            self.store.users.add_usage(USER, task_count=1)
            yield self.store.users.get(USER)
        elif step.path == step.chapter.paths[-1]:
            read = {"files": len(step.chapter.paths)}
            workflows.update_role_status(workflow_id, READER, "completed", read)
            yield workflows.update_role_status(workflow_id, WRITER, "running")


def new_state() -> dict[str, Any]:
    """The index before the first step. It grows by an entry with each."""
    return {"next": 0, "total_bytes": 0, "files": {}, "pages": {}}


def main() -> None:
    """Do as the order on stdin says."""
    order = msgpack.unpackb(sys.stdin.buffer.read(), strict_map_key=True)
    try:
        log = Effects(os.fsdecode(order["effects"]))
        with AgentStore(os.fsdecode(order["store"])) as store:
            Agent(store, order["root"], order["paths"], log).work()
    except BrokenPipeError:
        pass  # whoever listened is gone, and with it the reason to go on
    except (walkv.WalkvError, OSError) as error:
        tell(telling.FAILED, one_line(str(error)))


if __name__ == "__main__":
    main()
