"""The target that a path or URL names."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import unquote, urlsplit

from walkv.errors import BackupError
from walkv.ops.backing.directories import DirectoryTarget
from walkv.ops.backing.objects import ObjectTarget
from walkv.ops.backing.targets import Target

_KINDS: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "https")
"""Object stores, by what their URLs begin with."""


def open_target(target: str | os.PathLike[str]) -> Target:
    """The place that a path or URL names.

    Raises:
        ValueError: it is empty.
        BackupError: a URL of a kind that is not known, or its library is not installed.
    """
    text = os.fsdecode(target)
    if not text:
        raise ValueError("a target is a directory or a URL, and this one is empty")
    kind, separator, _ = text.partition("://")
    if not separator:
        return DirectoryTarget(text)
    if kind.lower() == "file":
        return DirectoryTarget(unquote(urlsplit(text).path))
    if kind.lower() not in _KINDS:
        known = ", ".join(f"{each}://" for each in _KINDS)
        raise BackupError(f"{text}: backups go to a directory, or to one of {known}", target=text)
    return ObjectTarget(text)
