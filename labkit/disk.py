"""Disk: what is written is there whole and stays, or is not there at all. Write, fsync, rename.

A process killed at any point, or a disk that fills up, leaves the file that was there before. A folder is sealed when
it is published: what is changed in it later is noticed, by `sha256sum --check SHA256SUMS` too.
"""

import hashlib
import os
from pathlib import Path

from labkit.errors import UsageError

SUMS = "SHA256SUMS"


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
    """Gives a folder its name when all that is in it, files of other processes included, is sealed and on the disk."""
    seal(unfinished)
    for path in sorted(unfinished.rglob("*")):
        _sync(path)
    _sync(unfinished)
    unfinished.rename(place)
    _sync(place.parent)


def seal(folder: Path) -> None:
    """Writes down the SHA-256 of every file in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != SUMS]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    (folder / SUMS).write_text("".join(f"{_sum(folder / name)}  {name}\n" for name in names), encoding="utf-8")


def changed(folder: Path) -> str | None:
    """The first file that is not as it was sealed; None where all are, or where the folder never was sealed."""
    if not (folder / SUMS).exists():
        return None
    try:
        sums = [line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
        return next((name for known, name in sums if _sum(folder / name) != known), None)
    except (OSError, ValueError):
        return SUMS


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def _sync(path: Path) -> None:
    """Has the system write out a file, or the names in a folder, which not every platform can open."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
