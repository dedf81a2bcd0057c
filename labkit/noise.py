"""Noise: what a reader has to know of the machine before trusting what a run measured on it."""

from collections.abc import Sequence
from typing import Any

from labkit.figures import SATURATED_MS
from labkit.intervals import figures, interval
from labkit.outage import Strikes
from labkit.protocols import PROTOCOLS
from labkit.recording import Recording
from labkit.results import Run
from labkit.trial import Measure

BUSY = 0.10
"""A larger share of the machine's CPU, used by other programs meanwhile, is seen in the times."""

WIDE = 1.5
"""An interval is wide whose upper bound is so many times its lower one."""

STEADY = {
    "p50_ms": "the median latency",
    "cpu_us_per_delivery": "the CPU per delivery",
    "bytes_per_delivery": "the number of bytes per delivery",
}
"""The figures that a quiet machine gives again in every repeat, as far as a measure has them."""


def noise(run: Run, measure: Measure, shown: Sequence[Recording] | None = None) -> list[str]:
    """What was noisy about the trials of a measure, in sentences without their full stop; none on a quiet machine.

    shown: those recordings alone are looked at for lateness; by default all of the measure, or of a sweep.
    """
    found = shown if shown is not None else run.recordings if run.swept else run.of(measure)
    said = []
    if (share := elsewhere(run.manifest)) > BUSY:
        said.append(f"other programs used {share:.0%} of the CPU meanwhile")
    late = [each.lateness_p99_ms() > SATURATED_MS for each in found if not _ends_the_producer(each)]
    if any(late):
        said.append(f"in {sum(late)} of {len(late)} trials the producer was over {SATURATED_MS:g} ms late itself")
    struck = [delay > SATURATED_MS for each in found if (delay := _struck_late_ms(each)) is not None]
    if any(struck):
        said.append(f"in {sum(struck)} of {len(struck)} trials the outage began over {SATURATED_MS:g} ms late")
    for name, words in STEADY.items():
        if wide := _wide(run, Measure.COST if run.swept else measure, name):
            said.append(f"{words} differs from repeat to repeat, over {WIDE:g} times, for {', '.join(wide)}")
    return said


def elsewhere(about: dict[str, Any]) -> float:
    """The share of all cores' time that other programs used while a run's, or a suite's, parts ran; 0 where unknown."""
    parts: Sequence[dict[str, Any]] = [part for part in about.get("parts", []) if part["elsewhere_cpu_s"] is not None]
    if not (lasted := sum(part["seconds"] for part in parts)):
        return 0.0
    return float(sum(part["elsewhere_cpu_s"] for part in parts) / lasted / (about["machine"]["cores"] or 1))


def _ends_the_producer(recording: Recording) -> bool:
    """Whether the outage made the producer late, and not the machine: what is due while it is gone, it sends after."""
    outage = recording.trial.outage
    return outage is not None and outage.strikes is Strikes.PRODUCER


def _struck_late_ms(recording: Recording) -> float | None:
    """How much later than planned the outage began; None where none was planned, or none began."""
    outage, windows = recording.trial.outage, recording.outcome.windows
    if outage is None or not windows:
        return None
    return float(windows[0][0] - recording.phases["load"]) / 1e6 - 1000 * outage.at


def _wide(run: Run, measure: Measure, name: str) -> list[str]:
    """The protocols of which a figure has a wide interval, with any guarantee; in a sweep, at which of its values."""
    frame = figures(run, measure)
    found: dict[str, set[float]] = {}
    for _, rows in frame.groupby(["protocol", "guarantee", "outage", "at"], dropna=False) if name in frame else ():
        if (each := interval(rows[name].astype(float))).high > WIDE * each.low:
            found.setdefault(str(rows["protocol"].iloc[0]), set()).add(float(rows["at"].iloc[0]))
    return [
        row.title + (f" at {' and '.join(f'{at:,.10g}' for at in sorted(found[protocol]))}" if run.swept else "")
        for protocol, row in PROTOCOLS.items()
        if protocol in found
    ]
