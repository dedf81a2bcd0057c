"""Noise: what a reader has to know of the machine before trusting the times that a run measured on it."""

from collections.abc import Sequence
from typing import Any

from labkit.figures import SATURATED_MS
from labkit.intervals import figures, interval
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.trial import Measure

BUSY = 0.10
"""A larger share of the machine's CPU, used by other programs meanwhile, is seen in the times."""

WIDE = 1.5
"""An interval is wide whose upper bound is so many times its lower one."""


def noise(run: Run, measure: Measure) -> list[str]:
    """What was noisy about the trials of a measure, in sentences without their full stop; none on a quiet machine."""
    said = []
    if (share := elsewhere(run.manifest)) > BUSY:
        said.append(f"other programs used {share:.0%} of the CPU meanwhile")
    if run.swept:  # where the generator and the knee come into it, each point says so itself
        return said
    frame = getattr(run, measure)
    if "saturated" in frame and (late := int(frame["saturated"].sum())):
        said.append(f"in {late} of {len(frame)} trials the producer was over {SATURATED_MS:g} ms late itself")
    if "p50_ms" in frame and (wide := _wide(run, measure)):
        said.append(f"the median latency differs from repeat to repeat, over {WIDE:g} times, for {', '.join(wide)}")
    return said


def elsewhere(about: dict[str, Any]) -> float:
    """The share of all cores' time that other programs used while a run's, or a suite's, parts ran; 0 where unknown."""
    parts: Sequence[dict[str, Any]] = [part for part in about.get("parts", []) if part["elsewhere_cpu_s"] is not None]
    if not (lasted := sum(part["seconds"] for part in parts)):
        return 0.0
    return float(sum(part["elsewhere_cpu_s"] for part in parts) / lasted / (about["machine"]["cores"] or 1))


def _wide(run: Run, measure: Measure) -> list[str]:
    """The protocols whose median latency has a wide interval, with any guarantee."""
    groups = figures(run, measure).groupby(["protocol", "guarantee"], sort=False)["p50_ms"]
    found = {str(key[0]) for key, values in groups if (each := interval(values.astype(float))).high > WIDE * each.low}
    return [row.title for name, row in PROTOCOLS.items() if name in found]
