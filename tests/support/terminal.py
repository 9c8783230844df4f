"""The command in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios


class Terminal:
    """The command in a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self._mine, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "walkv.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            preexec_fn=_become_its_own,
        )
        os.close(theirs)
        self.seen = ""

    def until(self, text: str) -> None:
        """Read until a text has come."""
        while text not in self.seen:
            ready, _, _ = select.select([self._mine], [], [], 30)
            assert ready, self.seen
            self.seen += os.read(self._mine, 4096).decode(errors="replace")

    def write(self, data: bytes) -> None:
        os.write(self._mine, data)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        while self._process.poll() is None:
            try:
                self.seen += os.read(self._mine, 4096).decode(errors="replace")
            except OSError:  # the other end was closed
                break
        return self._process.wait()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._mine)


def _become_its_own() -> None:
    """The terminal is that of a session of its own, so that Ctrl-C reaches it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
