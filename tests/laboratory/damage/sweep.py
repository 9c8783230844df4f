"""Layer "damage": stores with every kind of damage, each with the one outcome that is right.

Job texts, with the job's seed making the store and every choice:

    FORM SWEEP I/N       every N-th damage of a complete sweep, from the I-th on
    FORM SWEEP COUNT     the first so many of an endless one
    FORM only DAMAGE     a single one, in the words of ``kinds``
    FORM running COUNT   single damages under a running engine
    FORM during DAMAGE   a single one of those

Forms are those of ``stores``, sweeps those of ``kinds``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Final

from xxhash import xxh3_64_intdigest

from tests.laboratory.damage import kinds, running
from tests.laboratory.damage.check import SilentError, check, expect, within_seconds
from tests.laboratory.damage.stores import Files, Original, build
from tests.laboratory.job import Figures, Job, Layer, Scale

NAME: Final = "damage"
_THOROUGH_EVERY: Final = 8
_MEASURED_EVERY: Final = 512
_STUCK_SECONDS: Final = 10.0
_MOST_FAILURES: Final = 5
"""A bug makes thousands of damages fail; the first few kinds of failure are told."""

_COUNTS: Final = (
    "damages injected",
    "damages refused",
    "damages refused when opened",
    "damages refused when read",
    "damages refused with the right offset",
    "damages harmless",
    "damages torn tail",
    "damages misjudged",
    "damages silent",
)


def jobs(scale: Scale, seed: int) -> list[Job]:
    """Seconds at QUICK, some 80 core-seconds at FULL, some 20 a round of a SOAK."""
    if scale is Scale.QUICK:
        return [
            Job(NAME, "killed bits 1/8", seed, 1.0),
            Job(NAME, "closed cuts 1/8", seed + 1, 1.0),
            *(Job(NAME, f"{form} files 1/1", seed + 2, 0.5) for form in ("rotated", "fresh")),
            Job(NAME, "rotated pairs 400", seed + 2, 0.3),
            Job(NAME, "large random 12", seed + 3, 0.6),
            Job(NAME, "large running 8", seed + 3, 0.8),
        ]
    if scale is Scale.SOAK:
        form = ("killed", "closed", "rotated", "fresh")[seed % 4]
        return [
            Job(NAME, f"{form} bits 1/1", seed, 8.0),
            Job(NAME, f"{form} files 1/1", seed, 1.0),
            Job(NAME, f"{form} pairs 8000", seed, 4.0),
            Job(NAME, "large random 100", seed, 5.0),
            Job(NAME, "large running 60", seed, 5.0),
        ]
    listed = []
    for number, form in enumerate(("killed", "closed", "rotated")):
        listed += [Job(NAME, f"{form} bits {part}/2", seed + number, 5.5) for part in (1, 2)]
        listed.append(Job(NAME, f"{form} files 1/1", seed + number, 0.3))
        listed.append(Job(NAME, f"{form} pairs 15000", seed + number, 4.5))
    listed += [Job(NAME, f"killed cuts {part}/2", seed, 5.5) for part in (1, 2)]
    for number in range(5):
        listed.append(Job(NAME, "fresh bits 1/1", seed + number, 1.8))
        listed.append(Job(NAME, "fresh cuts 1/1", seed + number, 2.5))
    listed.append(Job(NAME, "fresh files 1/1", seed, 0.1))
    listed.append(Job(NAME, "large random 200", seed, 1.5))
    listed.append(Job(NAME, "large files 1/1", seed, 4.0))
    listed.append(Job(NAME, "large running 60", seed, 5.0))
    return listed


def run(job: Job) -> Figures:
    """Do one job; see the module for its text."""
    # What the engine logs of a damaged store is what is wanted here.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return _run(job)
    finally:
        logging.disable(disabled)


def _run(job: Job) -> Figures:
    form, sweep, what = job.text.split(" ", 2)
    original = build(form, job.seed)
    figures = Figures()
    figures.counts.update(dict.fromkeys(_COUNTS, 0))
    if sweep == "only":
        _Sweep(job, original, figures, _inject(original)).one(what, _MEASURED_EVERY)
    elif sweep == "during":
        _Sweep(job, original, figures, _run_under(original), "during").one(what, 0)
    elif sweep == "running":
        texts = islice(running.texts(original, Random(job.seed)), int(what))
        _Sweep(job, original, figures, _run_under(original), "during").all(texts)
    else:
        _Sweep(job, original, figures, _inject(original)).all(
            _texts(original, sweep, what, job.seed)
        )
        if sweep == "files":
            _measure_window(original, figures)
    return figures


def _texts(original: Original, sweep: str, what: str, seed: int) -> Iterator[str]:
    texts = kinds.SWEEPS[sweep](original, Random(seed))
    first, _, step = what.partition("/")
    return islice(texts, int(first) - 1, None, int(step)) if step else islice(texts, int(first))


def _measure_window(original: Original, figures: Figures) -> None:
    """How large the end of the log is that no later frame calls durable."""
    form = original.form
    figures.counts[f"stores {form}"] += 1
    figures.counts[f"residual window of stores {form}, bytes"] += original.window_bytes()
    pieces = original.pieces[original.tail][original.promised_count() :]
    figures.counts[f"residual window of stores {form}, commits"] += sum(p.commit for p in pieces)


Action = Callable[[str, Files, int], str]
"""Does a damage, given with the files it makes and its number; returns the kind of outcome."""


def _inject(original: Original) -> Action:
    def action(text: str, files: Files, number: int) -> str:
        folder = text.removeprefix("folder:") if text.startswith("folder:") else ""
        thorough = number % _THOROUGH_EVERY == 0 or text.startswith(("stale", "folder", "gone"))
        measured = number % _MEASURED_EVERY == 0
        return check(original, files, thorough=thorough, measured=measured, missing=folder)

    return action


def _run_under(original: Original) -> Action:
    def action(text: str, _: Files, number: int) -> str:
        return running.check(original, text, compacting=number % 2 == 1)

    return action


class _Sweep:
    """Injects damages, counts what comes of them, and makes failures small."""

    def __init__(
        self, job: Job, original: Original, figures: Figures, action: Action, word: str = "only"
    ) -> None:
        self._job = job
        self._original = original
        self._figures = figures
        self._action = action
        self._word = word
        self._seen = {_digest(original.files)}
        self._told: set[str] = set()

    def all(self, texts: Iterator[str]) -> None:
        for number, text in enumerate(texts):
            self.one(text, number)

    def one(self, text: str, number: int) -> None:
        """Inject a damage, unless it leaves the store as it was or as another one did."""
        original = self._original
        files = kinds.apply(original, text)
        digest = _digest(files)
        if digest in self._seen and not text.startswith("folder"):
            return
        self._seen.add(digest)
        counts = self._figures.counts
        counts["damages injected"] += 1
        try:
            with within_seconds(_STUCK_SECONDS):
                kind = self._action(text, files, number)
        except Exception as error:  # noqa: BLE001  # an untyped error is what is looked for
            counts["damages silent" if isinstance(error, SilentError) else "damages misjudged"] += 1
            self._fail(text, number, error)
            return
        if kind.startswith("refused"):
            counts["damages refused"] += 1
            counts["damages refused when opened" if kind == "refused" else f"damages {kind}"] += 1
            if self._word == "only" and _has_place(original, files):
                # The outcome was right, and the right one names an offset.
                counts["damages refused with the right offset"] += 1
        else:
            counts[f"damages {kind}"] += 1

    def _fail(self, text: str, number: int, error: Exception) -> None:
        about = f"{type(error).__name__} {text.split(':')[0]} {str(error)[:30]}"
        if about in self._told or len(self._told) >= _MOST_FAILURES:
            return
        self._told.add(about)
        text = self._smaller(text, number, type(error))
        job = self._job._replace(text=f"{self._original.form} {self._word} {text}", weight=0.1)
        self._figures.fail(job, error, f"found by: {self._job.command()}")

    def _smaller(self, text: str, number: int, kind: type[Exception]) -> str:
        """One damage of two where that is enough, and as few bytes of it as are enough."""
        smaller = True
        while smaller:
            smaller = False
            for candidate in _smaller_ones(text):
                try:
                    files = kinds.apply(self._original, candidate)
                    with within_seconds(_STUCK_SECONDS):
                        self._action(candidate, files, number)
                except kind:
                    text, smaller = candidate, True
                    break
                except Exception:  # noqa: BLE001  # another failure is not this one
                    continue
        return text


def _smaller_ones(text: str) -> Iterator[str]:
    parts = text.split("+")
    if len(parts) > 1:
        yield from parts
        return
    kind, *words = parts[0].split(":")
    if kind in ("noise", "insert", "remove") and int(words[2]) > 1:
        for count in sorted({1, int(words[2]) // 2}):
            yield ":".join([kind, words[0], words[1], str(count), *words[3:]])
    if kind == "zero" and int(words[2]) - int(words[1]) > 1:
        middle = (int(words[1]) + int(words[2])) // 2
        yield f"zero:{words[0]}:{words[1]}:{middle}"
        yield f"zero:{words[0]}:{middle}:{words[2]}"


def _has_place(original: Original, files: Files) -> bool:
    changed = [name for name in original.files if files.get(name) != original.files[name]]
    expected = expect(original, files)
    if len(changed) != 1 or expected.anywhere:
        return False
    return any(offset is not None for _, offset in expected.refusals | expected.pages)


def _digest(files: Files) -> int:
    parts = (
        b"%s\0%d\0%s" % (name.encode(), len(data), data) for name, data in sorted(files.items())
    )
    return xxh3_64_intdigest(b"".join(parts))


LAYER = Layer(NAME, "Damage sweep", jobs, run)
