"""Windows for file systems whose writes are made up, watched, or made to fail."""

from __future__ import annotations

from walkv.engine.vfs import File


class WritingWindow:
    """A window on a file that writes what is put there; see ``vfs.Window``."""

    def __init__(self, file: File, offset_bytes: int) -> None:
        self._file = file
        self._offset_bytes = offset_bytes

    def __setitem__(self, place: slice, data: bytes, /) -> None:
        self._file.write(data, self._offset_bytes + place.start)

    def close(self) -> None:
        """Nothing is held."""
