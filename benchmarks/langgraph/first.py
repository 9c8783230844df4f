"""The first read of a process: a JSON job on stdin, a JSON result on stdout.

*Layout*

====== ==================================================================================
job    ``{"side": name, "directory": path}``
result ``{"open_ms": number, "read_ms": number, "message_count": number}``
====== ==================================================================================

Imports, and a first message through the serializer, come before and do not count.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from benchmarks.collector import freeze
from benchmarks.langgraph import data
from benchmarks.langgraph.sides import ON_DISK
from benchmarks.langgraph.thread import THREAD


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Open, read, and say how long it took."""
    serializer = JsonPlusSerializer(allowed_msgpack_modules=None)
    serializer.loads_typed(serializer.dumps_typed(data.messages(1, 100, 2)))
    freeze()
    begin = time.perf_counter()
    with ON_DISK[job["side"]].saver(Path(job["directory"]), "process") as saver:
        opened = time.perf_counter()
        found = saver.get_tuple(data.thread(THREAD))
        read = time.perf_counter()
    assert found is not None
    return {
        "open_ms": (opened - begin) * 1e3,
        "read_ms": (read - opened) * 1e3,
        "message_count": len(found.checkpoint["channel_values"]["messages"]),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
