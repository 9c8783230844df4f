"""The process that the demo kills: stores files, and says after each commit that it returned.

It reads one order from stdin, and writes messages to stdout until it is killed. Messages are
msgpack arrays that begin with their kind:

    ACKNOWLEDGED  key, size, digest, latency in ns, monotonic time in ns
    SKIPPED       path, reason
    FAILED        reason; the last one

Invariants:
    1. A commit is acknowledged only after ``put`` has returned, by one ``write`` to the pipe with
       no buffer in between: what the parent reads had returned, and what was written outlives this
       process.
    2. The digest is of the bytes given to ``put``, taken before the call.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Final

import msgpack
from xxhash import xxh3_128_digest

import walkv
from walkv.cli.folder import read_file
from walkv.cli.policies import POLICIES
from walkv.cli.text import one_line

ACKNOWLEDGED: Final = 0
SKIPPED: Final = 1
FAILED: Final = 2

_STDOUT: Final = 1


def round_key(number: int, path: bytes) -> bytes:
    """The key of a file in a round over the folder."""
    return b"round/%04d/%b" % (number, path)


def path_of(key: bytes) -> bytes:
    """The path of a file below the folder, from its key."""
    return key.split(b"/", 2)[2]


def digest(data: bytes) -> bytes:
    return xxh3_128_digest(data)


def tell(*message: Any) -> None:
    """Write a message, whole."""
    data = msgpack.packb(message)
    while data:
        data = data[os.write(_STDOUT, data) :]


def store_files(store: walkv.Store, root: bytes, paths: list[bytes]) -> None:
    """Store the files again and again, each time under another round number."""
    clock = time.perf_counter_ns
    number = 0
    while paths:
        unreadable = set()
        for path in paths:
            try:
                data, _ = read_file(os.path.join(root, path))
            except OSError as error:
                tell(SKIPPED, path, error.strerror or str(error))
                unreadable.add(path)
                continue
            key, data_digest = round_key(number, path), digest(data)
            began = clock()
            store.put(key, data)
            ended = clock()
            tell(ACKNOWLEDGED, key, len(data), data_digest, ended - began, ended)
        if unreadable:
            paths = [path for path in paths if path not in unreadable]
        number += 1
    tell(FAILED, "no file can be read any more")


def main() -> None:
    order = msgpack.unpackb(sys.stdin.buffer.read(), strict_map_key=True)
    try:
        with walkv.open(os.fsdecode(order["store"]), sync=POLICIES[order["policy"]]) as store:
            store_files(store, order["root"], order["paths"])
    except BrokenPipeError:
        pass  # the parent is gone, and with it the reason to go on
    except (walkv.WalkvError, OSError) as error:
        tell(FAILED, one_line(str(error)))


if __name__ == "__main__":
    main()
