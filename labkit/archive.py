"""An archive: all trials of a run in one compressed file. What it holds is read as the run's own files are.

Column by column, times as differences: so like stands beside like. xz does the rest.
"""

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labkit import disk
from labkit.errors import UsageError, shown
from labkit.ledger import Kind, are, dtype

if TYPE_CHECKING:
    from labkit.audit import Offer, Records

FILE = "trials.xz"
FORMAT = 1
COLUMNS = ("time_ns", "value", "sequence", "subscriber", "kind")
RISING = ("time_ns", "sequence")
"""Columns of which the differences are kept."""


@dataclass(frozen=True)
class Packed:
    """One trial: its JSON files, and the records of its ledgers, each by its file's name; what arrived is `masked`.

    step_ns: all times are multiples of it.
    """

    name: str
    files: Mapping[str, Any]
    records: Mapping[str, "Records"]
    step_ns: int = 1

    def json(self, file: str) -> Any:
        """What is in a JSON file; KeyError where there is none."""
        return self.files[file]

    def ledgers(self) -> list[str]:
        """The names of its ledgers."""
        return list(self.records)

    def changed(self) -> None:
        """Nothing: what is in an archive was checked as a whole when it was unpacked (xz's CRC-64)."""

    def ledger(self, file: str, offer: "Offer") -> "Records":
        """The records of a ledger; UsageError where there is none."""
        if file not in self.records:
            raise UsageError(f"The ledger {file} of trial {self.name} is missing; restore the archive.")
        return masked(self.records[file], offer)


def masked(records: "Records", offer: "Offer") -> "Records":
    """The records, each arrival's CRC less the one that its event has: 0 where it is right. Its own inverse."""
    found = records.copy()
    number = records["sequence"].astype(np.int64) - offer.first
    there = are(records, Kind.RECEIVED, Kind.REPEATED) & (number >= 0) & (number < len(offer.crc))
    found["value"][there] ^= offer.crc[number[there]]
    return found


def write(path: Path, trials: Mapping[str, Packed]) -> None:
    """Writes an archive. The same trials give the same bytes."""
    every = [(records, trial.step_ns) for trial in trials.values() for records in trial.records.values()]
    about = {
        name: {
            "files": trial.files,
            "step_ns": trial.step_ns,
            "ledgers": {file: len(records) for file, records in trial.records.items()},
        }
        for name, trial in trials.items()
    }
    header = json.dumps({"format": FORMAT, "trials": about}, separators=(",", ":")).encode()
    parts = [header, b"\n"]
    for column in COLUMNS:
        values = [records[column].astype(np.int64) // (step if column == "time_ns" else 1) for records, step in every]
        values = [np.diff(each, prepend=0) for each in values] if column in RISING else values
        parts.append(_planes(np.concatenate([np.empty(0, np.int64), *values])))
    content = b"".join(parts)
    # No larger window than there is content, for which xz would take hundreds of megabytes.
    window = min(max(len(content), 4096), 64 << 20)
    how = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}
    disk.write(path, lzma.compress(content, filters=[how]))


def read(path: Path) -> dict[str, Packed]:
    """The trials of an archive, by name; UsageError where it is damaged or of another format."""
    try:
        header, _, body = lzma.decompress(path.read_bytes()).partition(b"\n")
        about = json.loads(header)
        if about["format"] == FORMAT:
            return _trials(about["trials"], body)
    except (OSError, lzma.LZMAError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise UsageError(f"The archive {str(path)!r} is damaged; restore it.") from None
    raise UsageError(f"The archive {str(path)!r} has format {shown(about['format'])}; this labkit reads {FORMAT}.")


def _trials(about: Mapping[str, Any], body: bytes) -> dict[str, Packed]:
    counts = [count for trial in about.values() for count in trial["ledgers"].values()]
    table = np.frombuffer(body, np.uint8).reshape(len(COLUMNS), 8, sum(counts))
    columns = {
        name: np.ascontiguousarray(planes.T).view("<i8").ravel() for name, planes in zip(COLUMNS, table, strict=True)
    }
    found, at = {}, 0
    for name, trial in about.items():
        ledgers = {}
        for file, count in trial["ledgers"].items():
            records = np.zeros(count, dtype())
            for column in COLUMNS:
                part = columns[column][at : at + count]
                records[column] = np.cumsum(part) if column in RISING else part
            records["time_ns"] *= trial["step_ns"]
            ledgers[file] = records
            at += count
        found[name] = Packed(name, trial["files"], ledgers, trial["step_ns"])
    return found


def _planes(values: NDArray[np.int64]) -> bytes:
    """All lowest bytes, then all second ones, and so on."""
    return np.ascontiguousarray(values.astype("<i8").view(np.uint8).reshape(-1, 8).T).tobytes()
