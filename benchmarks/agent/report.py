"""The report of a run, as Markdown; its tables are those of `benchmarks.comparison`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.agent.parts import PARTS
from benchmarks.agent.runner import Outcome
from benchmarks.agent.sides import Calling
from benchmarks.agent.tasks import TARGET_ROWS, TARGET_TIMES
from benchmarks.comparison import LEGEND, Row, bullets, losses, resources_table, table
from benchmarks.engines import SUBJECT
from benchmarks.figures import readable

_TITLES: dict[Calling, str] = {"threads": "Called from threads", "tasks": "Awaited by tasks"}


def to_markdown(outcome: Outcome, facts: Mapping[str, Any]) -> str:
    """Everything that a run found, and whatever a reader must know to believe it."""
    sections = [LEGEND]
    for calling, title in _TITLES.items():
        rows = [row for row in outcome.rows if PARTS[row.part].calling == calling]
        if rows:
            sections += [f"## {title}", table(rows, list(outcome.sides[calling]))]
    peers = list(dict.fromkeys(side for of in outcome.sides.values() for side in of))
    sections += [f"## Where {SUBJECT} loses", bullets(losses(outcome.rows, peers))]
    if targets := _targets(outcome.rows, peers):
        sections += [f"## Against the target of {TARGET_TIMES:g}x", bullets(targets)]
    if outcome.resources:
        sections += ["## What the process of a part used", resources_table(outcome.resources)]
    sections += ["## How it was run", bullets(_notes(facts))]
    return "\n\n".join(sections)


def _targets(rows: Iterable[Row], peers: Sequence[str]) -> list[str]:
    """What walkv has on the rows that its target names."""
    return [
        f"{row.name}, {row.guarantee}: {readable(ratio)}x {peer}, "
        f"{'met' if ratio >= TARGET_TIMES else 'missed'}"
        for row in rows
        if PARTS[row.part].calling == "tasks" and row.name.startswith(TARGET_ROWS)
        for peer in peers
        if (ratio := row.times_as_good(peer)) is not None
    ]


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = [f"{side} is not available: {why}" for side, why in facts["unavailable"].items()]
    notes += [
        f"error in {part} of {side}: {error}"
        for part, errors in facts["errors"].items()
        for side, error in errors.items()
    ]
    notes += [
        f"{side}, {calling}, {about['version']}: {about['configuration']}"
        for calling, sides in facts["sides"].items()
        for side, about in sides.items()
    ]
    for title in ("machine", "options"):
        shown = (f"{name.replace('_', ' ')} {value}" for name, value in facts[title].items())
        notes.append(f"{title}: {', '.join(shown)}")
    notes.append(f"syncs {facts['syncs']}")
    return [*notes, f"commit {facts['commit']}, {facts['date']}"]
