"""A user's own event log as a workload: JSONL or CSV in, (offset, topic, data) out.

Promises the log's own timing and order of time; never guesses at a damaged line, but names it.
"""

import csv
import json
import math
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from labkit.errors import UsageError
from labkit.event import TOPIC

if TYPE_CHECKING:
    from tqdm.auto import tqdm

DEFAULT_TOPIC = "event"

MAX_TIME = 1e11
"""Seconds; milliseconds given as seconds are beyond it."""

MAX_LINE = 16_000_000
"""Bytes of one CSV field; what is too large for an event is refused later, with its number."""

TRAILER = re.compile(r"\s+[\w-]+-by: ", re.IGNORECASE)

GIT = ("git", "-c", "log.showRoot=true", "-c", "log.showSignature=false", "-c", "color.ui=false")
"""git, whatever the user's own settings are."""


class Entry(NamedTuple):
    """One line of a log: seconds since the first line, topic, and the event's data."""

    at: float
    topic: str
    data: Any


def load(path: Path) -> list[Entry]:
    """The entries of a `.jsonl` or `.csv` log, ordered by time, the first at 0.

    Each line (or CSV row) needs `time`: ISO 8601, or seconds as a number. `type` is the topic where
    there is one; `data` is the payload where there is one, else all the other fields are.
    Raises UsageError naming the line, the value and the fix.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"The trace {str(path)!r} {problem}; give the path of a .jsonl or .csv file.")
    readers = {".jsonl": _jsonl, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"The trace {path.name!r} ends in {path.suffix!r}; a trace is a .jsonl or a .csv file.")
    try:
        rows = [(_seconds(path, line, row), line, row) for line, row in reader(path)]
    except UnicodeDecodeError as error:
        raise UsageError(f"The trace {path.name!r} is not UTF-8 text ({error.reason}); save it as UTF-8.") from None
    if not rows:
        raise UsageError(f"The trace {path.name!r} holds no events; it needs at least one line with a time.")
    rows.sort(key=lambda row: row[0])
    first = rows[0][0]
    return [Entry(at - first, _topic(path, line, row), _data(path, line, row)) for at, line, row in rows]


def save(entries: list[dict[str, Any]], path: Path) -> None:
    """Writes log lines as JSONL; refuses to overwrite."""
    if path.exists():
        raise UsageError(f"{str(path)!r} is already there and is kept as it is; choose another --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")


def from_git(repository: Path) -> list[dict[str, Any]]:
    """One push-like log line per commit of a local git repository, oldest first.

    Time, type, subject line, files and lines changed; no names or addresses of people are read.
    """
    from tqdm.auto import tqdm

    git = [*GIT, "-C", str(repository)]
    try:
        counted = subprocess.run([*git, "rev-list", "--count", "--no-merges", "HEAD"], capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed; install it, or make the log by other means.") from None
    if counted.returncode:
        reason = counted.stderr.decode(errors="replace").strip().split("\n")[0]
        raise UsageError(f"git cannot read a history in {str(repository)!r} ({reason}); give a repository's folder.")
    log = [*git, "log", "--reverse", "--no-merges", "--numstat", "--format=%x1e%ct%x1f%s"]
    with subprocess.Popen(log, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        with tqdm(total=int(counted.stdout), desc="git log", unit="commit", leave=False) as progress:
            pushes = [_push(commit) for commit in _commits(process.stdout, progress)]
    if process.returncode:
        raise UsageError(f"git cannot read the whole history in {str(repository)!r}; mend it with git fsck.")
    return pushes


def _commits(lines: IO[bytes], progress: "tqdm[Any]") -> Iterator[str]:
    """The text of one commit after the other; each begins with a record separator."""
    commit = ""
    for line in lines:
        text = line.decode(errors="replace")
        if text.startswith("\x1e"):
            if commit:
                yield commit
            commit = ""
            progress.update()
        commit += text.removeprefix("\x1e")
    if commit:
        yield commit


def _push(commit: str) -> dict[str, Any]:
    head, _, changes = commit.partition("\n")
    seconds, _, subject = head.partition("\x1f")
    # git takes a trailer that follows the first line without a blank one for a part of the subject.
    subject = TRAILER.split(subject, maxsplit=1)[0]
    counts = [line.split("\t")[:2] for line in changes.split("\n") if line.count("\t") >= 2]
    data = {
        "subject": subject,
        "files": len(counts),
        "added": sum(int(added) for added, _ in counts if added.isdigit()),
        "removed": sum(int(removed) for _, removed in counts if removed.isdigit()),
    }
    return {"time": datetime.fromtimestamp(int(seconds), UTC).isoformat(), "type": "push", "data": data}


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"Line {number} of {path.name!r} is not JSON ({error}); mend or remove it.") from None
            if not isinstance(row, dict):
                raise UsageError(f"Line {number} of {path.name!r} is not a JSON object; write one object a line.")
            yield number, row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    usual = csv.field_size_limit(MAX_LINE)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        try:
            yield from _rows(path, rows)
        except csv.Error as error:
            where = f"Line {rows.reader.line_num} of {path.name!r}"
            raise UsageError(f"{where} is not CSV ({error}); mend it.") from None
        finally:
            csv.field_size_limit(usual)


def _rows(path: Path, rows: "csv.DictReader[str]") -> Iterator[tuple[int, dict[str, Any]]]:
    if "time" not in (rows.fieldnames or []):
        found = ", ".join(rows.fieldnames or []) or "none"
        raise UsageError(f"The trace {path.name!r} has no column 'time' (found: {found}); add one.")
    for row in rows:
        if None in row or None in row.values():
            raise UsageError(f"Line {rows.line_num} of {path.name!r} has not as many fields as the header; mend it.")
        yield rows.line_num, row


def _seconds(path: Path, line: int, row: dict[str, Any]) -> float:
    value = row.get("time")
    where = f"Line {line} of {path.name!r}"
    if value is None:
        raise UsageError(f"{where} has no 'time'; give each event an ISO 8601 time or seconds.")
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except OverflowError:
        seconds = math.inf
    except (TypeError, ValueError):
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise UsageError(f"{where} has the time {value!r}; use ISO 8601 or seconds as a number.") from None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) <= MAX_TIME:
        limit = f"a number of seconds within {MAX_TIME:,.0f} of 1970"
        raise UsageError(f"{where} has the time {value!r:.40}; use ISO 8601 or {limit}.")
    return seconds


def _topic(path: Path, line: int, row: dict[str, Any]) -> str:
    topic = str(row.get("type") or DEFAULT_TOPIC)
    if not TOPIC.fullmatch(topic) or len(topic) > 100:
        fix = "use at most 100 ASCII letters, digits, '-', '_' and single dots between them"
        raise UsageError(f"Line {line} of {path.name!r} has the type {topic!r}; {fix}.")
    return topic


def _data(path: Path, line: int, row: dict[str, Any]) -> Any:
    data = row["data"] if "data" in row else {key: row[key] for key in row if key not in ("time", "type")}
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        raise UsageError(f"Line {line} of {path.name!r} has a number out of range in its data; mend it.") from None
    return data
