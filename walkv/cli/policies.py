"""The sync policies by the names that the command line gives them."""

from __future__ import annotations

from typing import Final

from walkv import Wal, WriteBack, WriteThrough

POLICIES: Final[dict[str, WriteThrough | Wal | WriteBack]] = {
    "write-through": WriteThrough(),
    "wal": Wal(),
    "write-back": WriteBack(),
}
