"""Disk: what is written is there whole and stays, or is not there at all. Write, fsync, rename.

A process killed at any point, or a disk that fills up, leaves the file that was there before.
"""

import os
from pathlib import Path

from labkit.errors import UsageError


def folder(path: Path) -> None:
    """Makes a folder, and those it is in; UsageError where a file is in its way, or the system does not allow it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {str(path)!r} cannot be made ({error.strerror}); choose another.") from None


def write(path: Path, data: bytes | str) -> None:
    """Writes a file anew; OSError where there is no room, and then the old one is as it was."""
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def publish(unfinished: Path, place: Path) -> None:
    """Gives a folder its name when all that is in it, files of other processes included, is on the disk."""
    for path in sorted(unfinished.rglob("*")):
        _sync(path)
    _sync(unfinished)
    unfinished.rename(place)
    _sync(place.parent)


def _sync(path: Path) -> None:
    """Has the system write out a file, or the names in a folder, which not every platform can open."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
