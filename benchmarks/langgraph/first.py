"""The first read of a process: `python -m benchmarks.langgraph.first SIDE DIRECTORY`.

Prints JSON: milliseconds to open the saver and to read the latest checkpoint, and how many messages
were in it. Imports, and a first message through the serializer, come before and do not count.
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from benchmarks.langgraph import data
from benchmarks.langgraph.sides import ON_DISK
from benchmarks.langgraph.thread import THREAD


def main(side: str, directory: str) -> None:
    """Open, read, and say how long it took."""
    serializer = JsonPlusSerializer(allowed_msgpack_modules=None)
    serializer.loads_typed(serializer.dumps_typed(list(islice(data.messages(1, 100), 2))))
    begin = time.perf_counter()
    with ON_DISK[side].saver(Path(directory), "process") as saver:
        opened = time.perf_counter()
        found = saver.get_tuple(data.thread(THREAD))
        read = time.perf_counter()
    assert found is not None
    figures = {
        "open_ms": (opened - begin) * 1e3,
        "read_ms": (read - opened) * 1e3,
        "message_count": len(found.checkpoint["channel_values"]["messages"]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
