"""What a person, and a program, see of the demo."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import TextWrapper
from typing import Any, Final

import click

from walkv.cli import output, values
from walkv.cli.demo.audit import Audit
from walkv.cli.demo.folder import MOST_FILES, Listing
from walkv.cli.demo.trial import Heard, Run
from walkv.cli.demo.twin import Twin
from walkv.cli.tables import Column, table
from walkv.cli.text import escaped, for_json, one_line, path_text
from walkv.engine.vfs.mounts import mount_of

_MOST_SHOWN: Final = 5
_COLUMNS: Final = (
    Column("namespace"),
    Column("policy"),
    Column("records", numeric=True),
    Column("acknowledged", numeric=True),
    Column("found", numeric=True),
    Column("lost", numeric=True),
)


@dataclass(slots=True)
class Outcome:
    """All that the demo found.

    Attributes:
        place: the directory with the store and the effects log.
        store_bytes: on disk, closed.
        twin: the same in SQLite; None if it was not made.
    """

    listing: Listing
    place: str
    store: str
    effects: str
    seed: int
    heard: Heard
    audit: Audit
    store_bytes: int = 0
    twin: Twin | None = None

    @property
    def error(self) -> str:
        """Why the demo did not come to its end; empty if it did."""
        return next((run.error for run in self.heard.runs if run.error), "")

    @property
    def ok(self) -> bool:
        return self.audit.ok and not self.error

    @property
    def step_count(self) -> int:
        return sum(len(run.ended) for run in self.heard.runs)

    @property
    def call_seconds(self) -> float:
        """Time in calls to the store that wrote something."""
        return sum(call.latency_ns for call in self.heard.calls) / 1e9


# -- for a person ----------------------------------------------------------------------------------


def print_head(listing: Listing, place: str, seed: int) -> None:
    """What is about to happen, to what, and where."""
    files = f"{counted(len(listing.stamps), 'file')}, {output.size(listing.total_bytes)}"
    click.echo(
        _folded("", "").fill(
            "An agent reads a folder, a step a file, and keeps its session, messages, tool calls "
            "and checkpoints in a store. It is killed with SIGKILL at random moments, and started "
            "again."
        )
    )
    click.echo()
    output.print_facts(
        [
            ("folder", f"{path_text(listing.root)} ({files})"),
            ("store", f"{path_text(place)} (kept)"),
            ("seed", str(seed)),
        ]
    )
    mount = mount_of(place)
    if mount is not None and mount.in_memory:
        output.note(
            "the store is in memory (tmpfs), where a sync costs nothing: give a --directory on a "
            "disk for real figures"
        )


def note_skipped(listing: Listing) -> None:
    """What is left out although it might have been expected."""
    for path, reason in listing.skipped[:_MOST_SHOWN]:
        output.note(f"skipped {escaped(path) or '.'}: {reason}")
    more = len(listing.skipped) - _MOST_SHOWN
    if more > 0:
        output.note(f"skipped {more:,} more")
    if len(listing.stamps) >= MOST_FILES:
        output.note(f"stopped looking for files at {MOST_FILES:,}")


def print_run(number: int, run: Run) -> None:
    """What one process did until it was killed."""
    _print_section(f"run {number}", run_lines(run))


def _print_section(title: str, lines: Iterable[str]) -> None:
    """A title, and lines folded to the window."""
    click.echo(f"\n{click.style(title, bold=True)}")
    folded = _folded("  ", "    ")
    for line in lines:
        click.echo(folded.fill(line))


def _folded(first: str, following: str) -> TextWrapper:
    """Folds text to the window, with these indents."""
    return TextWrapper(
        output.console().width,
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )


def run_lines(run: Run) -> Iterator[str]:
    """The same, a line each."""
    opened = run.opened
    if opened is not None and opened.created:
        yield "a new store, and nothing in it"
    elif opened is not None:
        text = (
            f"opened again in {opened.elapsed_ms:.0f} ms: {opened.frame_count:,} commits replayed"
        )
        if opened.cut_bytes:
            text += f", {opened.cut_bytes:,} bytes of an unfinished one cut off"
        yield text
        if run.resumed_at.number:
            yield f"the last checkpoint says where to go on: {run.resumed_at}"
        if opened.cut_off_count:
            yield f"{counted(opened.cut_off_count, 'tool call')} cut off, and noted as cancelled"
    for step, took_effect in run.doubts:
        yield f"{short(step)} had begun and not ended: " + (
            "the effects log has its line, so it is not done again"
            if took_effect
            else "the effects log has no line of it, so it is done now"
        )
    for step in run.recalled:
        yield f"{short(step)} had ended, behind the last checkpoint: its result is recalled"
    if run.commit_count:
        yield f"{counted(len(run.ended), 'step')}, {run.commit_count:,} commits acknowledged"
    if run.killed_after_seconds:
        at = run.at
        yield (
            f"killed after {run.killed_after_seconds:.2f} s in step {at.number:,} ({at.about}), "
            f"{_under_way(run)}"
        )
    if run.error:
        yield f"failed: {run.error}"


def counted(count: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short(step: str) -> str:
    """``round-0001/00042 a.txt`` as a person says it."""
    number, _, about = step.partition("/")[2].partition(" ")
    return f"step {int(number):,} ({about})"


def _under_way(run: Run) -> str:
    """What the kill cut off."""
    if run.cut_off is not None:
        return f"while {run.cut_off.what}"
    return f"between two calls, after {run.last}"


def print_end(outcome: Outcome) -> None:
    """The check, the table, and the comparison."""
    audit = outcome.audit
    _print_section("after the last kill", _check_lines(outcome))
    click.echo()
    rows = [
        {
            "namespace": row.name if row.name == row.namespace else f"{row.namespace}: {row.name}",
            "policy": row.policy,
            "records": row.records,
            "acknowledged": row.acknowledged,
            "found": row.found,
            "lost": row.lost,
        }
        for row in audit.rows
    ]
    output.console().print(table(_COLUMNS, rows))
    if outcome.twin is not None:
        click.echo()
        _print_sizes(outcome, outcome.twin)
    click.echo()
    click.secho(_folded("", "").fill(_verdict(outcome)), bold=True)


def _check_lines(outcome: Outcome) -> Iterator[str]:
    audit = outcome.audit
    for step, took_effect in audit.in_doubt:
        log = "its line" if took_effect else "no line of it"
        yield f"{short(step)} had begun and not ended; the effects log has {log}"
    if audit.unacknowledged:
        records = counted(audit.unacknowledged, "record")
        yield f"{records} there whose call was cut off before it returned"
    if audit.ok:
        calls = audit.tool_calls
        yield (
            f"{counted(sum(calls.values()), 'tool call')}: {calls.get('failed', 0):,} timed out "
            f"and were made again, {calls.get('cancelled', 0):,} cut off by a kill"
        )
        yield f"every byte read again: {output.size(audit.checked_bytes)}, no damage"
        yield "indexes agree with records, and what was committed together is there together"
        yield f"effects log: {counted(audit.effect_count, 'step')}, none twice, none missing"
    for step, count in [*audit.repeated.items()][:_MOST_SHOWN]:
        yield f"REPEATED: {short(step)} took effect {count} times"
    for step in audit.undone[:_MOST_SHOWN]:
        yield f"LOST: {short(step)} was acknowledged, and took no effect"
    for problem in audit.problems[:_MOST_SHOWN]:
        yield f"PROBLEM: {one_line(problem)}"
    for path, reason in [*outcome.heard.skipped.items()][:_MOST_SHOWN]:
        yield f"could not read {escaped(path)}: {reason}"


def _print_sizes(outcome: Outcome, twin: Twin) -> None:
    count = len(outcome.heard.calls)
    rows = [
        ("walkv", outcome.store_bytes, count / outcome.call_seconds),
        ("SQLite, records as JSON", twin.size_bytes, count / twin.elapsed_seconds),
    ]
    columns = (
        Column("name", f"the same {count:,} commits"),
        Column("size", "on disk", values.size, numeric=True),
        Column("rate", "commits/s", numeric=True),
    )
    shown = [{"name": name, "size": size, "rate": round(rate)} for name, size, rate in rows]
    output.console().print(table(columns, shown))


def _verdict(outcome: Outcome) -> str:
    audit = outcome.audit
    total = sum(row.acknowledged for row in audit.rows)
    if audit.lost:
        return f"LOST: {audit.lost:,} of {total:,} acknowledged records and steps."
    if audit.repeated:
        return f"REPEATED: {len(audit.repeated):,} steps took effect more than once."
    if not outcome.ok:
        return "The demo failed, see above."
    kills = counted(len(outcome.heard.runs), "kill")
    return (
        f"{kills}: of {total:,} acknowledged records none was lost, and of {audit.effect_count:,} "
        "steps none was done twice."
    )


def print_hints(outcome: Outcome, temporary: bool) -> None:
    """What to look at next."""
    quoted = shlex.quote(outcome.store)
    called = Path(sys.argv[0])
    installed = shutil.which("walkv") or called.name != "walkv"
    program = "walkv" if installed else shlex.quote(str(called))
    click.echo("\nLook inside:")
    for what in ("show", "show messages", "show executions", "show checkpoints"):
        click.echo(f"  {program} {what} {quoted}")
    if temporary:  # a directory that was given may hold more than what the demo made
        click.echo(f"\nRemove it:\n  rm -r {shlex.quote(outcome.place)}")


# -- for a program ---------------------------------------------------------------------------------


def fields(outcome: Outcome) -> dict[str, Any]:
    """Everything, for ``--json``."""
    listing, audit, heard = outcome.listing, outcome.audit, outcome.heard
    skipped = [*listing.skipped, *heard.skipped.items()]
    return {
        "ok": outcome.ok,
        "lost": audit.lost,
        "repeated": audit.repeated,
        "undone": audit.undone,
        "in_doubt": [_doubt_fields(*each) for each in audit.in_doubt],
        "unacknowledged": audit.unacknowledged,
        "problems": audit.problems,
        "error": outcome.error,
        "folder": for_json(listing.root),
        "file_count": len(listing.stamps),
        "total_bytes": listing.total_bytes,
        "skipped": [{"path": for_json(path), "reason": reason} for path, reason in skipped],
        "directory": outcome.place,
        "store": outcome.store,
        "effects": outcome.effects,
        "seed": outcome.seed,
        "runs": [_run_fields(run) for run in heard.runs],
        "step_count": outcome.step_count,
        "effect_count": audit.effect_count,
        "tool_calls": audit.tool_calls,
        "commit_count": len(heard.calls),
        "namespaces": [
            {
                "namespace": row.namespace,
                "kind": row.name,
                "policy": row.policy,
                "records": row.records,
                "acknowledged": row.acknowledged,
                "found": row.found,
                "lost": row.lost,
                "missing": row.missing,
                "wrong": row.wrong,
            }
            for row in audit.rows
        ],
        "disk_bytes": {
            "walkv": outcome.store_bytes,
            "sqlite": None if outcome.twin is None else outcome.twin.size_bytes,
        },
        "call_seconds": {
            "walkv": outcome.call_seconds,
            "sqlite": None if outcome.twin is None else outcome.twin.elapsed_seconds,
        },
    }


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "opened": None if run.opened is None else run.opened._asdict(),
        "resumed_at": run.resumed_at._asdict(),
        "killed_at": run.at._asdict(),
        "killed_after_seconds": run.killed_after_seconds,
        "killed_while": None if run.cut_off is None else run.cut_off.what,
        "step_count": len(run.ended),
        "commit_count": run.commit_count,
        "in_doubt": [_doubt_fields(*each) for each in run.doubts],
        "recalled": run.recalled,
        "error": run.error,
    }


def _doubt_fields(step: str, took_effect: bool) -> dict[str, Any]:
    return {"step": step, "took_effect": took_effect}
