"""One policy of the demo: let a process store files, kill it, and count what is there.

Invariants:
    1. Only commits whose acknowledgement arrived are counted, and all of them: the pipe is read to
       its end after the kill.
    2. An acknowledged commit is found only if its value is what was given to ``put``, and, if the
       file did not change meanwhile, what this process itself reads in the file.
    3. At most one commit may be there without an acknowledgement: the one that the kill cut off
       between the commit and the message.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgpack

import walkv
from walkv import limits
from walkv.cli import demo_child
from walkv.cli.folder import Listing, Stamp, directory_bytes, read_file
from walkv.cli.policies import POLICIES

_START_SECONDS: Final = 60.0
"""How long to wait for the first acknowledgement."""

_MOST_BYTES: Final = 1 * limits.GIB
_MOST_COMMITS: Final = 500_000
"""The process is killed at once when it has stored so much: the demo is to fill no disk."""

_END_SECONDS: Final = 10.0
"""How long a child that closed its pipe without being killed may take to end."""

_REPORT_SECONDS: Final = 0.1

Say = Callable[[str], None]


class Acknowledgement(NamedTuple):
    """What the child said about a commit that had returned."""

    key: bytes
    size_bytes: int
    digest: bytes
    latency_ns: int
    ended_ns: int


@dataclass(slots=True)
class Run:
    """What was heard of a child until it was dead.

    Attributes:
        acknowledged: in commit order.
        stored_bytes: sizes of their values together.
        skipped: paths that it could not read, and why.
        killed_after_seconds: since the first acknowledgement.
        error: why it was not killed in the middle of its work; empty if it was.
    """

    acknowledged: list[Acknowledgement] = field(default_factory=list)
    stored_bytes: int = 0
    skipped: list[tuple[bytes, str]] = field(default_factory=list)
    killed_after_seconds: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Tally:
    """What is left of the acknowledged commits.

    Attributes:
        found: there, byte for byte.
        missing: not there.
        wrong: there with other bytes, or unreadable.
        changed: of those found, commits of files that changed while the demo ran, so that they
            could be held against the child's digest only.
        unacknowledged: commits that are there although the kill came before their message.
        error: the first of whatever else is wrong; empty if nothing is.
    """

    found: int = 0
    missing: int = 0
    wrong: int = 0
    changed: int = 0
    unacknowledged: int = 0
    error: str = ""

    @property
    def lost(self) -> int:
        return self.missing + self.wrong


@dataclass(slots=True)
class Outcome:
    """A trial, for the tables.

    Attributes:
        tally: the worse of the one after recovery and the one after compaction.
        recovery: what opening after the kill found and did; None if opening failed.
        bytes_before, bytes_after: size on disk before and after compaction.
        error: what went wrong besides losses; empty if nothing did.
    """

    policy: str
    store: str
    run: Run
    tally: Tally = field(default_factory=Tally)
    recovery: walkv.RecoveryReport | None = None
    bytes_before: int = 0
    bytes_after: int = 0
    error: str = ""

    @property
    def acknowledged(self) -> int:
        return len(self.run.acknowledged)

    @property
    def ok(self) -> bool:
        return not self.tally.lost and not self.error

    @property
    def round_count(self) -> int:
        """Rounds over the folder that were begun."""
        if not self.run.acknowledged:
            return 0
        return int(self.run.acknowledged[-1].key.split(b"/", 2)[1]) + 1

    @property
    def commits_per_second(self) -> float:
        """From the begin of the first commit to the end of the last; reading files included."""
        heard = self.run.acknowledged
        if not heard:
            return 0.0
        elapsed_ns = heard[-1].ended_ns - heard[0].ended_ns + heard[0].latency_ns
        return len(heard) / elapsed_ns * 1e9

    def latency_ms(self, share: float) -> float:
        """The latency that so large a share of the commits kept to."""
        latencies = sorted(heard.latency_ns for heard in self.run.acknowledged)
        if not latencies:
            return 0.0
        return latencies[min(int(share * len(latencies)), len(latencies) - 1)] / 1e6


def try_policy(
    policy: str, store: str, listing: Listing, kill_after_seconds: float, begin: Say, update: Say
) -> Outcome:
    """Store, kill, reopen, check, compact, and check again.

    Args:
        begin: told of each step.
        update: told how far a step is, several times a second.
    """
    begin(f"{policy}: storing files until the process is killed")
    run = store_until_killed(policy, store, listing, kill_after_seconds, update)
    outcome = Outcome(policy, store, run, error=run.error)
    if not run.acknowledged:
        return outcome
    begin(f"{policy}: killed; opening the store again and checking every acknowledged commit")
    try:
        opened = walkv.open(store, create=False, sync=POLICIES[policy])
    except (walkv.WalkvError, OSError) as error:
        outcome.tally.missing = outcome.acknowledged
        outcome.error = str(error)
        return outcome
    try:
        with opened:
            outcome.recovery = opened.recovery_report
            outcome.tally = check(opened, listing, run.acknowledged)
            begin(f"{policy}: compacting, and checking again")
            outcome.bytes_before = directory_bytes(store)
            opened.compact()
            compacted = check(opened, listing, run.acknowledged)
            problems = opened.verify().problems
        outcome.bytes_after = directory_bytes(store)
    except (walkv.WalkvError, OSError) as error:
        outcome.error = outcome.error or str(error)
        return outcome
    outcome.tally = max(outcome.tally, compacted, key=lambda tally: (tally.lost, tally.error))
    outcome.error = outcome.error or outcome.tally.error or "".join(map(str, problems[:1]))
    return outcome


def store_until_killed(
    policy: str, store: str, listing: Listing, kill_after_seconds: float, update: Say
) -> Run:
    """Start the child, listen to it, and kill it so long after its first acknowledgement."""
    order = {
        "store": os.fsencode(store),
        "policy": policy,
        "root": listing.root,
        "paths": list(listing.stamps),
    }
    run = Run()
    with subprocess.Popen(
        _child_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which kills the child
    ) as child:
        try:
            _give(child, msgpack.packb(order))
            killed = _listen(
                child,
                run,
                kill_after_seconds,
                lambda count: update(f"{policy}: {count:,} commits acknowledged"),
            )
            if not killed:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_END_SECONDS)
        finally:
            child.kill()
        status = child.wait()
        assert child.stderr is not None, "a pipe"
        complaint = child.stderr.read().decode(errors="replace").strip()
    if not killed and not run.error:
        last_line = complaint.rpartition("\n")[2]
        run.error = f"the process ended by itself, with status {status}: {last_line}"
    return run


def _child_command() -> Sequence[str]:
    # -P, and the path at the end: neither a random.py in the working directory nor what lies beside
    # this package may come before the standard library.
    start = (
        "import sys; sys.path.append(sys.argv[1]); from walkv.cli.demo_child import main; main()"
    )
    package = os.path.dirname(os.path.abspath(walkv.__file__))
    return sys.executable, "-P", "-c", start, os.path.dirname(package)


def _give(child: subprocess.Popen[bytes], order: bytes) -> None:
    assert child.stdin is not None, "a pipe"
    try:
        with child.stdin:
            child.stdin.write(order)
    except BrokenPipeError:
        pass  # it ended already; its stderr says why


def _listen(
    child: subprocess.Popen[bytes],
    run: Run,
    kill_after_seconds: float,
    progress: Callable[[int], None],
) -> bool:
    """Hear a child to the end of its pipe; returns whether it was killed, and not ended before."""
    assert child.stdout is not None, "a pipe"
    pipe = child.stdout.fileno()
    unpacker = msgpack.Unpacker(use_list=False)
    clock = time.monotonic
    deadline = clock() + _START_SECONDS
    first_at = reported_at = 0.0
    killed = False
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            now = clock()
            enough = len(run.acknowledged) >= _MOST_COMMITS or run.stored_bytes >= _MOST_BYTES
            if not killed and (now >= deadline or enough):
                child.kill()
                killed = True
                if run.acknowledged:
                    run.killed_after_seconds = now - first_at
                else:
                    run.error = f"no commit was acknowledged within {_START_SECONDS:.0f} seconds"
            if not selector.select(None if killed else deadline - now):
                continue
            data = os.read(pipe, 1 << 16)
            if not data:
                return killed
            unpacker.feed(data)
            for message in unpacker:
                _hear(run, *message)
            if run.acknowledged and not first_at:
                first_at = clock()
                deadline = first_at + kill_after_seconds
            if now - reported_at >= _REPORT_SECONDS:
                reported_at = now
                progress(len(run.acknowledged))


def _hear(run: Run, kind: int, *message: Any) -> None:
    if kind == demo_child.ACKNOWLEDGED:
        heard = Acknowledgement(*message)
        run.acknowledged.append(heard)
        run.stored_bytes += heard.size_bytes
    elif kind == demo_child.SKIPPED:
        path, reason = message
        run.skipped.append((path, reason))
    else:
        run.error = f"the process ended by itself: {message[0]}"


def check(store: walkv.Store, listing: Listing, acknowledged: Iterable[Acknowledgement]) -> Tally:
    """Look up every acknowledged commit, and hold it against the child's digest and the file."""
    tally = Tally()
    own_digests: dict[bytes, bytes | None] = {}
    for heard in acknowledged:
        try:
            value = store.get(heard.key)
        except walkv.CorruptionError as error:
            tally.wrong += 1
            tally.error = tally.error or str(error)
            continue
        if value is None:
            tally.missing += 1
            continue
        path = demo_child.path_of(heard.key)
        if path not in own_digests:
            file = os.path.join(listing.root, path)
            own_digests[path] = _digest_if_unchanged(file, listing.stamps[path])
        own = own_digests[path]
        stored = demo_child.digest(value)
        if stored != heard.digest or own not in (None, stored):
            tally.wrong += 1
        else:
            tally.found += 1
            tally.changed += own is None
    if not tally.error:
        tally.unacknowledged = store.count() - tally.found - tally.wrong
        if tally.unacknowledged not in (0, 1):
            tally.error = f"{tally.unacknowledged:,} keys are there that were never acknowledged"
    return tally


def _digest_if_unchanged(path: bytes, stamp: Stamp) -> bytes | None:
    """What this process reads in a file, or None if it is not what it was when it was listed."""
    try:
        data, stamp_now = read_file(path)
    except OSError:
        return None
    return demo_child.digest(data) if stamp_now == stamp else None
