"""What people who run a store need, on a bad day and on an ordinary one.

A floor above the engine and the namespaces, and below everything that an agent sees:

    keys                  the key at hand
    placing               a new store, there in one step
    backing               backups: made, restored to any moment, checked, kept
    copying               a store, written anew as another one
    indexes               do records and what is kept beside them agree?
    moving                export and import: files of walkv, and of other stores
    repairing             all that can be read of a damaged store, into a new one
    machine               what the machine says of its memory
    probing               what a directory's file system really does
    storefiles            the files of a store, looked at without opening it
    diagnosing            doctor: a good place for a store, and a store fit to be opened?
    faring                health, seen from outside of the writer
    rates                 what a store did in an interval
    naming                keys and values as namespaces mean them
    sizing                what each namespace takes
    logged                the frames of the log, with their places
    versions              what a key was
    comparing             what is different between two values
    pruning, sweeping     what is old or has expired, deleted
"""

from walkv.ops.backing import (
    BackupInfo,
    BackupProblem,
    BackupReport,
    BackupSchedule,
    BackupsReport,
    PruneReport,
    RestoreReport,
    backup,
    backups,
    prune_backups,
    restore,
    verify_backups,
)
from walkv.ops.comparing import Difference, differences
from walkv.ops.copying import CopyReport, copy
from walkv.ops.diagnosing import Diagnosis, Finding, doctor
from walkv.ops.faring import health, published
from walkv.ops.indexes import rebuild_indexes, rebuild_registry, verify_indexes
from walkv.ops.logged import LoggedFrame, frames
from walkv.ops.moving import ExportReport, ImportReport, detect, export, import_
from walkv.ops.pruning import Pruned, Rules, prune
from walkv.ops.repairing import Damage, FileReport, RepairReport, repair
from walkv.ops.sizing import Size, sizes
from walkv.ops.sweeping import Swept, sweep
from walkv.ops.versions import Version, history

__all__ = [
    "BackupInfo",
    "BackupProblem",
    "BackupReport",
    "BackupSchedule",
    "BackupsReport",
    "CopyReport",
    "Damage",
    "Diagnosis",
    "Difference",
    "ExportReport",
    "FileReport",
    "Finding",
    "ImportReport",
    "LoggedFrame",
    "PruneReport",
    "Pruned",
    "RepairReport",
    "RestoreReport",
    "Rules",
    "Size",
    "Swept",
    "Version",
    "backup",
    "backups",
    "copy",
    "detect",
    "differences",
    "doctor",
    "export",
    "frames",
    "health",
    "history",
    "import_",
    "prune",
    "prune_backups",
    "published",
    "rebuild_indexes",
    "rebuild_registry",
    "repair",
    "restore",
    "sizes",
    "sweep",
    "verify_backups",
    "verify_indexes",
]
