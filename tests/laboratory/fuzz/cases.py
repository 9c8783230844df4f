"""Layer "fuzz": every decoder, fed with hostile bytes and with forged structures.

Job texts:

    TARGET hostile COUNT     cases without right checksums
    TARGET forged COUNT      cases with them
    TARGET input HEX         a single one
    TARGET packed HEX        a single long one, compressed by zlib
    TARGET atheris RUNS      cases guided by coverage, in a process of their own

Targets are those of ``targets``; ``all`` is one more for atheris. Hypothesis draws the first
two from the job's seed, and shrinks what fails.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.laboratory.damage.check import within_seconds
from tests.laboratory.fuzz import inputs
from tests.laboratory.fuzz.targets import TARGETS, lowered_limits, split_all, try_target
from tests.laboratory.job import Figures, Job, Layer, Scale

NAME: Final = "fuzz"
_ROOT: Final = Path(__file__).resolve().parents[2]
_STUCK_SECONDS: Final = 10.0
_HEX_BYTES: Final = 400
_ATHERIS_SECONDS: Final = 600


def jobs(scale: Scale, seed: int) -> list[Job]:
    """Seconds at QUICK, some 20 core-seconds at FULL, some 40 a round of a SOAK."""
    hostile, forged = {Scale.QUICK: (40, 120), Scale.FULL: (200, 600), Scale.SOAK: (400, 3000)}[
        scale
    ]
    listed = []
    for target in TARGETS:
        more = 2 if target == "snapshot" else 1
        listed.append(Job(NAME, f"{target} hostile {hostile}", seed, hostile / 1500))
        listed.append(Job(NAME, f"{target} forged {forged * more}", seed, forged * more / 1200))
    if scale is Scale.FULL:
        listed.append(Job(NAME, "all atheris 40000", seed, 4.0))
    elif scale is Scale.SOAK:
        listed += [Job(NAME, f"{target} atheris 20000", seed, 4.0) for target in TARGETS]
    return listed


def run(job: Job) -> Figures:
    """Do one job; see the module for its text."""
    target, kind, what = job.text.split(" ", 2)
    figures = Figures()
    figures.counts.update(dict.fromkeys(("fuzz cases", "fuzz refused", "fuzz accepted"), 0))
    figures.counts["fuzz untyped"] += 0
    if kind == "input":
        _one(job, figures, target, bytes.fromhex(what))
    elif kind == "packed":
        _one(job, figures, target, zlib.decompress(bytes.fromhex(what)))
    elif kind == "atheris":
        _guided(job, figures, target, int(what))
    elif kind in ("hostile", "forged"):
        _drawn(job, figures, target, kind, int(what))
    else:
        raise ValueError(f"no such kind of fuzzing: {kind}")
    return figures


def _one(job: Job, figures: Figures, target: str, data: bytes) -> None:
    with lowered_limits():
        try:
            _case(figures.counts, target, data)
        except Exception as error:  # noqa: BLE001  # an untyped error is what is looked for
            _fail(job, figures, target, data, error)


def _case(counts: Counter[str], target: str, data: bytes) -> None:
    counts["fuzz cases"] += 1
    counts[f"fuzz cases {target}"] += 1
    with within_seconds(_STUCK_SECONDS):
        accepted = try_target(TARGETS[target], data, measured=True)
    counts["fuzz accepted" if accepted else "fuzz refused"] += 1


def _drawn(job: Job, figures: Figures, target: str, kind: str, count: int) -> None:
    failing: list[bytes] = []
    counts: Counter[str] = Counter()
    strategy = getattr(inputs, kind)(target)

    @seed(job.seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(strategy)
    def try_all(data: bytes) -> None:
        try:
            _case(counts, target, data)
        except Exception:
            failing[:] = [data]  # the last one is the smallest: Hypothesis runs it again
            raise

    with lowered_limits():
        try:
            try_all()
        except Exception as error:
            if not failing:
                raise
            _fail(job, figures, target, failing[0], error)
    figures.counts.update(counts)


def _fail(job: Job, figures: Figures, target: str, data: bytes, error: Exception) -> None:
    figures.counts["fuzz untyped"] += 1
    word, shown = ("input", data) if len(data) <= _HEX_BYTES else ("packed", zlib.compress(data))
    smallest = Job(NAME, f"{target} {word} {shown.hex()}", job.seed, 0.1)
    figures.fail(smallest, error, f"input: {data[:_HEX_BYTES]!r}\nfound by: {job.command()}")


def _guided(job: Job, figures: Figures, target: str, runs: int) -> None:
    """Let atheris look for new paths; what it finds is run again here."""
    if importlib.util.find_spec("atheris") is None:
        figures.skipped.append("atheris: not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.fuzz.atheris_decoders", target, f"-runs={runs}"]
        command += [
            f"-seed={job.seed % (1 << 31) or 1}",
            f"-artifact_prefix={folder}/",
            "-max_len=2048",
        ]
        done = subprocess.run(
            command,
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=_ATHERIS_SECONDS,
            check=False,
        )
        found = sorted(Path(folder).iterdir())
        for path in found:
            name, data = (
                split_all(path.read_bytes()) if target == "all" else (target, path.read_bytes())
            )
            # Which of the two it was fails again; the other passes.
            for candidate in (data, TARGETS[name].forge(data)):
                _one(job, figures, name, candidate)
    if done.returncode and not figures.failures:
        raise AssertionError(f"atheris ended with {done.returncode}:\n{done.stderr[-2000:]}")
    figures.counts["fuzz cases"] += runs
    figures.counts["fuzz cases guided by coverage"] += runs


LAYER = Layer(NAME, "Decoders fuzzed", jobs, run)
