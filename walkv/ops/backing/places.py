"""The target that a path or URL names."""

from __future__ import annotations

import os

from walkv.ops.backing.directories import DirectoryTarget
from walkv.ops.backing.objects import ObjectTarget
from walkv.ops.backing.targets import Target


def open_target(target: str | os.PathLike[str]) -> Target:
    """The place that a path or URL names.

    Raises:
        ValueError: it is empty.
        BackupError: a URL of a kind that is not known, or its library is not installed.
    """
    text = os.fsdecode(target)
    if not text:
        raise ValueError("a target is a directory or a URL, and this one is empty")
    if "://" in text:
        return ObjectTarget(text)
    return DirectoryTarget(text)
