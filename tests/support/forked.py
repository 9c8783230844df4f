"""The command in processes of their own, which begin in a tenth of the time that others take.

One process imports what the command needs, and forks for each run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

_SERVER = r"""
import gc, json, os, signal, sys, traceback
from walkv.cli import main
from walkv.cli import app
import walkv.integrations.langgraph
import _strptime  # on demand, where another user may not read it

gc.freeze()

def serve(request):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(request["seconds"])
    for descriptor, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        opened = os.open(name, os.O_RDWR)
        os.dup2(opened, descriptor)
    os.chdir(request["directory"])
    if request["user"] is not None:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    sys.argv = ["walkv", *request["arguments"]]
    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking apart all that was imported takes longer than most commands

for line in sys.stdin:
    print(serve(json.loads(line)), flush=True)
"""


class Done(NamedTuple):
    """What a run has left."""

    status: int
    stdout: str
    stderr: str


class Forks:
    """A process that runs the command; a context manager."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        directory: Path,
        arguments: Sequence[str | Path],
        *,
        user: int | None = None,
        seconds: int = 30,
    ) -> Done:
        """Run the command.

        Args:
            directory: to run it in.
            user: whose rights it has; by default those of this process.
            seconds: it is killed after so long.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as place:
            files = {name: Path(place, name) for name in ("stdout", "stderr")}
            for file in files.values():
                file.touch()
            request = {
                "arguments": [str(each) for each in arguments],
                "user": user,
                "seconds": seconds,
                "directory": str(directory),
                **{name: str(file) for name, file in files.items()},
            }
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            found = [file.read_bytes().decode(errors="replace") for file in files.values()]
            return Done(status, *found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


NOBODY = 65534


def is_root() -> bool:
    """Whether this process may do what it likes, so that permissions mean nothing to it."""
    return os.geteuid() == 0
