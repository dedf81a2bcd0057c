"""The manifest: what a run folder says of itself, written before the first trial and after each; made and read here.

A run may be carried out in parts, one after the other. No host names, no user names, no paths.
"""

import json
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit import archive, disk
from labkit.errors import UsageError, shown
from labkit.plan import SWEPT, Plan
from labkit.provenance import machine, versions
from labkit.shape import Shape, anything, moment, number, optional, plain, read_object, text, whole
from labkit.trial import SCHEMA

FILE = "manifest.json"
ASKED = ("workload", "digest", "outages", "conditions", "timings", "sweep", "planned")
"""What says what was asked for; a run goes on only with the same."""

PART: Shape = {
    "seconds": number,
    "elsewhere_cpu_s": optional(number),
    "commit?": optional(text),
    "started?": text,
    "finished?": text,
    "load_before?": optional([number]),
    "load_after?": optional([number]),
}
ORIGIN: dict[str, Shape] = {
    "schema": anything,
    "argv?": [text],
    "versions?": {"*": optional(text)},
    "machine?": {"commit?": optional(text), "cores?": optional(number), "*": plain},
}
"""What a run and a suite both say of where they come from, as far as the package reads it."""

SHAPE: dict[str, Shape] = {
    **ORIGIN,
    "trials": {"*": {"error?": text, "failed?": [text]}},
    "parts?": [PART],
    "seed?": plain,
    "workload?": {"rate": number, "duration": number, "size": number, "subscribers": number, "*": plain},
    "digest?": text,
    "outages?": [{"kind": text, "*": plain}],
    "conditions?": {"*": plain},
    "timings?": {"*": plain},
    "sweep?": {"over": lambda value: text(value) and value in SWEPT, "values?": [number]},
    "planned?": whole,
    "finished?": moment,
}
"""All that the package reads of a manifest. Older ones lack much of it."""


def made(plan: Plan, offered: str, argv: list[str]) -> dict[str, Any]:
    """A new one, before any trial; `offered` is the digest of the plan's workload."""
    found = {
        "schema": SCHEMA,
        "argv": [nameless(word) for word in argv],
        "seed": plan.workload.seed,
        "workload": plan.workload.to_json(),
        "digest": offered,
        "outages": [outage.to_json() for outage in plan.outages],
        "conditions": asdict(plan.conditions),
        "timings": asdict(plan.timings),
        "retry_compression": round(plan.timings.compression) if plan.timings.retry_span else None,
        "planned": len(plan.trials()),
        "versions": versions(),
        "machine": machine(),
        "parts": [],
        "trials": {},
    }
    return found | ({"sweep": asdict(plan.sweep)} if plan.sweep else {})


def nameless(word: str) -> str:
    """A word of a command line; of a path that leads through somebody's folders, the last part alone."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    path = Path(value)
    leads = path.is_absolute() or ".." in path.parts or value.startswith("~")
    return f"{option}{equals}{path.name or '.'}" if leads else word


class Part:
    """One stretch of a run's work, as the manifest tells of it: when, how long, on which commit, beside which load.

    elsewhere_cpu_s: CPU seconds that other processes of this machine used meanwhile; None where nobody can tell, as
    while its own are at work.
    """

    def __init__(self, about: dict[str, Any]) -> None:
        self._began, self._busy = time.monotonic(), _elsewhere()
        self._said = {
            "started": datetime.now(UTC).isoformat(),
            **{name: about["machine"][name] for name in ("commit", "dirty")},
            "load_before": load_average(),
        }

    def so_far(self) -> dict[str, Any]:
        """What there is to say of it while it lasts: no more will ever be said of one that is killed."""
        return self._said | {
            "finished": datetime.now(UTC).isoformat(),
            "seconds": round(time.monotonic() - self._began, 2),
            "load_after": load_average(),
            "elsewhere_cpu_s": None,
        }

    def ended(self) -> dict[str, Any]:
        """What there is to say when it is over, and the child processes have ended."""
        busy = _elsewhere()
        theirs = None if self._busy is None or busy is None else round(max(busy - self._busy, 0.0), 2)
        return self.so_far() | {"elsewhere_cpu_s": theirs}


def load_average() -> list[float] | None:
    """Of the last 1, 5 and 15 minutes; None where the system has none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _elsewhere() -> float | None:
    """CPU seconds that all but this process and its ended children have used since the machine started."""
    import psutil

    if os.name == "nt":  # which does not count what ended children used
        return None
    every, mine = psutil.cpu_times(), os.times()
    idle = every.idle + getattr(every, "iowait", 0.0) + getattr(every, "guest", 0.0) + getattr(every, "guest_nice", 0.0)
    return float(sum(every) - idle - sum(mine[:4]))


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; UsageError where it has none, or one that is damaged or of another schema."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is not a run folder: it has no {FILE}; give what `--out` named.")
    manifest, wrong = checked(path, SHAPE)
    if manifest.get("schema", SCHEMA) != SCHEMA:
        said = shown(manifest["schema"])
        raise UsageError(f"The run {str(folder)!r} has schema {said}; this labkit reads {SCHEMA}: use its own version.")
    if wrong:
        raise _damaged(folder, wrong)
    return manifest


def checked(path: Path, shape: Shape) -> tuple[dict[str, Any], str]:
    """What a run or a suite says of itself, and what is wrong with it, in words."""
    about, wrong = read_object(path, shape)
    if not wrong and about.get("parts") and "cores" not in about.get("machine", {}):
        wrong = "it has parts, and its machine lacks cores"  # of which the load by other programs is a share
    return about, wrong


def _damaged(folder: Path, wrong: str) -> UsageError:
    return UsageError(f"The manifest of {str(folder)!r} is damaged ({wrong}); restore it, or run the comparison again.")


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes it to the disk, whole."""
    disk.write(folder / FILE, json.dumps(manifest, indent=1))


def resumed(folder: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that is to go on; UsageError where its other trials would not be comparable.

    A trial that had its folder when the run was killed, and not yet its entry, gets it.
    """
    old, again = read(folder), "finish it as it was begun, or begin another run"
    fresh = json.loads(json.dumps(fresh))  # as it would be read
    if (folder / archive.FILE).exists():
        raise UsageError(f"The run {str(folder)!r} is packed and takes no more trials; go on where it was packed from.")
    if lacking := [name for name in ("versions", "machine", "parts") if name not in old]:
        raise _damaged(folder, f"it lacks {lacking[0]}")
    for name in ASKED:
        if old.get(name) != fresh.get(name):
            raise UsageError(
                f"The run {str(folder)!r} was begun with another {name} ({_short(old.get(name))}) than it would go on "
                f"with ({_short(fresh.get(name))}); {again}."
            )
    for name, mine in (("versions", old["versions"]), ("machine", old["machine"])):
        for key, value in mine.items():
            now = fresh[name].get(key)
            if value != now and key not in ("commit", "dirty", "memory_gib"):
                raise UsageError(
                    f"The run {str(folder)!r} was begun with {key} {value} and would go on with {now}, which is not "
                    f"comparable; {again}."
                )
    for place in sorted((folder / "trials").glob("[!.]*")):
        if "digest" not in old["trials"].get(place.name, {}):
            try:
                record = json.loads((place / "record.json").read_text(encoding="utf-8"))
                told = {"digest": str(record["digest"]), "seconds": float(record["seconds"])}
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                raise UsageError(
                    f"The trial {place.name} of the run {str(folder)!r} is damaged; restore it, or remove its folder."
                ) from None
            old["trials"][place.name] = entered(old["trials"], place.name, told)
    return old


def entered(trials: dict[str, Any], name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A trial's new entry; how it failed before, if it did, is kept. An error may quote a path: not its home's name."""
    before, home = trials.get(name, {}), os.path.expanduser("~")
    if "error" in entry and len(Path(home).parts) > 1:
        entry = entry | {"error": entry["error"].replace(home + os.sep, f"~{os.sep}")}
    failed = [*before.get("failed", []), *([before["error"]] if "error" in before else [])]
    return entry | ({"failed": failed} if failed else {})


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
