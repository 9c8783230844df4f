"""Backups: hot, incremental, verified; restored to any moment that their logs lead to.

    pacing        progress, rate, giving up
    targets       what backups need of the place where they are
    directories   backups in a directory
    objects       backups in an object store
    places        the target that a path or URL names
    listings      what one backup is
    frames        the frames of a segment, surveyed and handed on
    sources       the files of a store in use, held open
    contents      what can be checked of a snapshot
    reading       objects, held against what a listing says
    pool          objects, put once and read back
    retention     which backups stay, and how the others go
    making        makes a backup
    plans         which backups lead to a moment
    rings         the manifests in listings, and the keys in those
    moments       which moment is meant
    restoring     puts a store together
    checking      lists backups, and checks them
    schedule      makes one every so often

``docs/backup.md`` has the layout of a target and the reasons.
"""

from walkv.ops.backing.checking import (
    BackupInfo,
    BackupProblem,
    BackupsReport,
    backups,
    verify_backups,
)
from walkv.ops.backing.making import BackupReport, backup
from walkv.ops.backing.restoring import RestoreReport, restore
from walkv.ops.backing.retention import PruneReport, prune_backups
from walkv.ops.backing.schedule import BackupSchedule

__all__ = [
    "BackupInfo",
    "BackupProblem",
    "BackupReport",
    "BackupSchedule",
    "BackupsReport",
    "PruneReport",
    "RestoreReport",
    "backup",
    "backups",
    "prune_backups",
    "restore",
    "verify_backups",
]
