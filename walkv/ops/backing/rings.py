"""The manifests in listings, and the keys that are in those of encrypted stores.

A listing's ring has every data key that its own files are under. Where files of several backups
are put together, the ring is put together too, of those rings that the key at hand opens.

Invariants:
    1. Without a key nothing is written anew: a manifest is used as the bytes it is, and payloads
       stay sealed.
    2. With one, a manifest is used only if it was written with the store's keys.
"""

from __future__ import annotations

from walkv.engine import manifest
from walkv.engine.keyring import VARIABLE, Keyring, Ring, Secret
from walkv.engine.manifest import Manifest
from walkv.engine.vfs import OsFileSystem
from walkv.errors import BackupError, EncryptionError
from walkv.ops.backing import listings
from walkv.ops.backing.listings import Listing
from walkv.ops.backing.plans import Moment
from walkv.ops.backing.targets import Target


def unlocked(data: bytes, path: str, secret: Secret | None) -> tuple[Manifest, Keyring | None]:
    """A manifest, and the keys of its store; None where it is encrypted and there is no key.

    Raises:
        FormatError, CorruptionError: it is none, or damaged.
        EncryptionError: the key does not fit.
        TamperedError: it was not written with the store's key.
    """
    known = manifest.decode(data, path)
    if known.ring is not None and secret is None:
        return known, None
    keyring = Keyring(secret, OsFileSystem().random_bytes)
    return manifest.opened(data, path, keyring), keyring


def of_listing(
    place: Target, listing: Listing, secret: Secret | None
) -> tuple[Manifest, Keyring | None]:
    """As ``unlocked``, of the manifest in a listing."""
    path = listings.path_of(place, listing.name)
    try:
        return unlocked(listing.manifest, path, secret)
    except EncryptionError as error:
        if error.reason != "wrong":
            raise
        raise other_key(path) from None


def joined(
    place: Target, wanted: Moment, base: Listing, numbers: set[int], secret: Secret
) -> tuple[Manifest, Keyring]:
    """The manifest of a backup, and keys for files of several ones.

    Args:
        wanted: where the files lead, and the backups that they are of.
        base: the one whose manifest is to go on.
        numbers: of the data keys that the files are under.
    Raises:
        EncryptionError: this takes a key that the store had at another time.
        BackupError: two of the data keys have the same number.
        CorruptionError, TamperedError: a manifest is damaged, or was changed.
    """
    path = listings.path_of(place, base.name)
    known = manifest.decode(base.manifest, path)
    ring = known.ring
    assert ring is not None
    needed = {*numbers, ring.newest}
    opened = _opened(place, wanted, needed, secret)
    there = {number for keyring in opened for number in _numbers(keyring.ring)}
    if not needed <= there:
        used = wanted.plan.used
        owners = (each for each in used if _numbers_in(each) & (needed - there))
        raise other_key(listings.path_of(place, next(owners, base).name))
    try:
        keyring = opened[0].joined(opened[1:], needed)
    except ValueError as error:
        raise BackupError(
            f"{place.path}: this moment is made of histories with keys of their own ({error}); "
            "restore from a single backup",
            target=place.path,
        ) from None
    manifest.authenticate(base.manifest, path, keyring.as_of(ring))
    return known, keyring


def _opened(place: Target, wanted: Moment, needed: set[int], secret: Secret) -> list[Keyring]:
    """What the key opens: of the backups that are used, and of others for keys still missing."""
    used = {each.name for each in wanted.plan.used}
    others = [each for each in wanted.found if each.name not in used]
    opened: list[Keyring] = []
    there: set[int] = set()
    for listing in [*wanted.plan.used, *others]:
        if listing.name not in used and needed <= there:
            break
        try:
            _, keyring = of_listing(place, listing, secret)
        except EncryptionError as error:
            if error.reason != "wrong":
                raise
        else:
            assert keyring is not None
            opened.append(keyring)
            there |= _numbers(keyring.ring)
    return opened


def _numbers(ring: Ring | None) -> set[int]:
    assert ring is not None
    return {number for number, _ in ring.keys}


def _numbers_in(listing: Listing) -> set[int]:
    return _numbers(manifest.decode(listing.manifest, listing.name).ring)


def other_key(path: str) -> EncryptionError:
    return EncryptionError(
        f"{path}: this takes another key: a backup is under the one that the store had when it was "
        "made",
        path=path,
        reason="wrong",
    )


def no_key(place: Target) -> EncryptionError:
    return EncryptionError(
        f"{place.path}: the store is encrypted, and to restore it to a moment between backups its "
        "manifest is written anew, which takes the key: give it as key=, or set "
        f"{VARIABLE}; a backup as it is can be restored without",
        path=place.path,
        reason="missing",
    )
