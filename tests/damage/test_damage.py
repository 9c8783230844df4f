"""The layer "damage" at its smallest scale, and the special cases worth a name."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

import walkv
from tests.laboratory.damage import kinds
from tests.laboratory.damage.check import SilentError, boot, check, expect
from tests.laboratory.damage.stores import FORMS, ROOT, Original, build
from tests.laboratory.damage.sweep import LAYER
from tests.laboratory.job import Job, Scale
from walkv.engine import segment

SEED = 20240611
JOBS = LAYER.jobs(Scale.QUICK, SEED)


@pytest.fixture(params=["killed", "closed"])
def original(request: pytest.FixtureRequest) -> Original:
    return build(request.param, SEED)


@pytest.mark.parametrize("job", JOBS, ids=[job.text.replace(" ", "-") for job in JOBS])
def test_damage(job: Job) -> None:
    figures = LAYER.run(job)
    assert [failure[:2] for failure in figures.failures] == []
    assert figures.counts["damages injected"] > 0
    assert figures.counts["damages refused"] > 0
    assert figures.counts["damages silent"] == figures.counts["damages misjudged"] == 0


@pytest.mark.parametrize("form", FORMS)
def test_the_originals_are_what_they_should_be(form: str) -> None:
    original = build(form, SEED)
    assert check(original, original.files, thorough=True, measured=True) == "harmless"
    snapshots = [name for name in original.files if name.startswith("snapshots/")]
    segments = [name for name in original.files if name.startswith("log/")]
    if form == "fresh":
        assert (len(snapshots), len(segments)) == (0, 1)
    else:
        assert (len(snapshots), len(segments)) == (2, 3)
        assert len(original.history["MANIFEST"]) > 5
    if form == "large":
        assert max(map(len, original.pieces.values())) > 200
        assert 400_000 < sum(map(len, original.files.values())) < 4_000_000
    else:
        assert sum(map(len, original.files.values())) < 5_000
        assert len(original.history[original.tail]) > 3
    if form in ("killed", "closed", "rotated"):
        assert original.final[b"a/2"] == b"second"
        assert not {b"a/0", b"a/6", b"a/7", b"a/9", b"s/2"} & original.final.keys()


def test_the_residual_window() -> None:
    """Closed, it is the mark of the close; killed, the commits that no later one promises."""
    closed, killed = build("closed", SEED), build("killed", SEED)
    (mark,) = closed.pieces[closed.tail][closed.promised_count() :]
    assert mark.close
    window = killed.pieces[killed.tail][killed.promised_count() :]
    assert [piece.commit for piece in window] == [True, True]


@pytest.mark.parametrize("form", ["killed", "fresh"])
def test_a_job_names_one_damage_and_repeats_it(form: str) -> None:
    text = f"{form} only bit:MANIFEST:200"
    one, two = (LAYER.run(Job(LAYER.name, text, SEED)).counts for _ in range(2))
    assert one == two
    assert one["damages refused with the right offset"] == 1


def test_a_wrong_outcome_is_told() -> None:
    """The check can fail: a store that lacks what the original has is called a silent loss."""
    original = build("closed", SEED)
    more = replace(original, base={**original.base, b"lost": b"1"}, _states={})
    with pytest.raises(SilentError):
        check(more, original.files, thorough=False, measured=False)
    name = next(name for name in original.files if name.startswith("snapshots/"))
    damaged = kinds.apply(original, f"bit:{name}:900")
    twin = replace(original, files={**original.files, name: damaged[name]})
    with pytest.raises(AssertionError):
        check(twin, damaged, thorough=False, measured=False)


def test_an_unknown_damage_is_an_error() -> None:
    for text in ("melt:MANIFEST", "bit:MANIFEST", "bit:nothing:1", "stale:MANIFEST:999"):
        with pytest.raises(ValueError, match="no such damage"):
            kinds.apply(build("fresh", SEED), text)


def test_a_refused_store_opens_again_once_the_file_is_restored(original: Original) -> None:
    for name, data in original.files.items():
        if name in ("LOCK", original.tail):
            continue
        fs = boot(kinds.apply(original, f"noise:{name}:3:40:1"))
        with pytest.raises((walkv.CorruptionError, walkv.FormatError)):
            walkv.open(ROOT, filesystem=fs)
        fs.open(f"{ROOT}/{name}", writable=True).write(data, 0)
        with walkv.open(ROOT, filesystem=fs) as store:
            assert dict(store.scan()) == original.final


def test_recovery_of_a_torn_tail_is_final(original: Original) -> None:
    """What was cut stays cut: opening again gives the same state, whatever was torn."""
    data = original.files[original.tail]
    pieces = original.pieces[original.tail]
    rng = random.Random(SEED)
    for piece in pieces[original.promised_count() :]:
        torn = data[: rng.randrange(piece.start + 1, piece.stop)] + rng.randbytes(9)
        files = {**original.files, original.tail: torn}
        assert expect(original, files).cut_bytes == len(torn) - piece.start
        fs = boot(files)
        first = walkv.open(ROOT, filesystem=fs)
        state = dict(first.scan())
        assert first.recovery_report.cut_bytes == len(torn) - piece.start
        again = fs.after_kill()
        again.clock.wall_ns = fs.clock.wall_ns
        with walkv.open(ROOT, filesystem=again) as store:
            assert dict(store.scan()) == state
            assert store.recovery_report.cut_bytes == 0
        saved = [b for path, b in fs.visible().files.items() if "/quarantine/" in path]
        assert saved == [torn[piece.start :]]


def test_an_older_manifest_is_not_believed(original: Original) -> None:
    """It names less than there is: the segments that it does not know hold commits."""
    refused = 0
    for number in range(len(original.history["MANIFEST"])):
        files = kinds.apply(original, f"stale:MANIFEST:{number}")
        refused += check(original, files, thorough=True, measured=False) == "refused"
    assert refused > 0


def test_segments_in_each_others_place_are_told_by_their_headers(original: Original) -> None:
    segments = [name for name in original.files if name.endswith(segment.SUFFIX)]
    for one, two in itertools.permutations(segments, 2):
        fs = boot(kinds.apply(original, f"copy:{one}:{two}"))
        with pytest.raises(walkv.CorruptionError, match="another segment's name") as caught:
            walkv.open(ROOT, filesystem=fs)
        assert caught.value.path == f"{ROOT}/{two}"
