"""Fifty outages of every kind for every protocol: at-least-once and durable have to keep their promises through all.

    python bench/soak.py [--outages 50] [--out DIR] [PROTOCOL ...]

Prints a Markdown table, one line for each trial; ends with status 1 when a promise was broken.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from labkit.outage import OUTAGES, Outage, Strikes
from labkit.plan import Plan
from labkit.promises import broken
from labkit.protocols import PROTOCOLS
from labkit.recording import Recording
from labkit.results import Run
from labkit.runner import Runner
from labkit.trial import Guarantee, Measure, Timings
from labkit.workload import Workload

RATE, SUBSCRIBERS = 40.0, 5
LASTS = 0.3
CRASH_LASTS = 0.6
"""A new process has to be up by then, beside those of seven other trials."""

TIMINGS = Timings(heartbeat=0.5, poll=0.05, retry_limit=0.3, attempts=60, ack=1.0)
"""Fifty outages in a row are no reason to give up, so there are more attempts than usual."""


def plans(protocols: list[str], outages: int) -> list[Plan]:
    """One plan for the kinds that break a link or stop a process, one for those that kill one."""
    found = []
    for lasts, crash in ((LASTS, False), (CRASH_LASTS, True)):
        kinds = [
            kind
            for kind, row in OUTAGES.items()
            if (kind.endswith("-crash") and row.strikes != Strikes.BROKER) is crash
        ]
        cuts = tuple(Outage(kind, at=1.0, lasts=lasts, repeat=outages) for kind in kinds)
        workload = Workload(rate=RATE, duration=cuts[0].ends + 2.0, subscribers=SUBSCRIBERS)
        guarantees = (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)
        found.append(Plan(workload, tuple(protocols), guarantees, (Measure.LOSS,), cuts, timings=TIMINGS))
    return found


def run(plan: Plan, out: Path) -> list[Recording]:
    """Runs a plan, many trials at once: what is counted here, no delay can falsify."""
    with tqdm(total=len(plan.trials()), unit="trial") as bar:
        errors = Runner(plan, out, sys.argv, lambda *_: bar.update(), room=16).run()
    for name, error in errors.items():
        print(f"{name}: {error}", file=sys.stderr)
    if errors:
        raise SystemExit(1)
    return Run(out).recordings


def line(recording: Recording) -> str:
    """One line of the table."""
    trial, outcome = recording.trial, recording.outcome
    assert trial.outage
    cells = [
        *(trial.protocol, trial.guarantee, trial.outage.kind, len(outcome.windows)),
        *(f"{outcome.delivered:,}", f"{outcome.lost:,}", f"{outcome.duplicated:,}", f"{outcome.reordered:,}"),
        ", ".join(broken(recording)) or "kept",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help="all by default")
    parser.add_argument("--outages", type=int, default=50, help="of every kind (50)")
    parser.add_argument("--out", type=Path, help="keep the runs in this new folder")
    options = parser.parse_args()
    began, names = time.monotonic(), options.protocols or list(PROTOCOLS)
    with tempfile.TemporaryDirectory(prefix="labkit-soak-") as temporary:
        out = options.out or Path(temporary)
        recordings = [
            r for number, plan in enumerate(plans(names, options.outages)) for r in run(plan, out / str(number))
        ]
    recordings.sort(key=lambda recording: names.index(recording.trial.protocol))
    print("| protocol | guarantee | outage | times | delivered | lost | repeats | out of order | promises |")
    print("|---|---|---|---:|---:|---:|---:|---:|---|")
    print("\n".join(map(line, recordings)))
    for name in names:
        mine = [recording.outcome for recording in recordings if recording.trial.protocol == name]
        outages, delivered = sum(len(o.windows) for o in mine), sum(o.delivered for o in mine)
        print(f"\n{name}: {outages:,} outages, {delivered:,} deliveries, {sum(o.lost for o in mine):,} lost.", end="")
    print(f"\n\n{time.monotonic() - began:.0f} s.")
    return 1 if any(map(broken, recordings)) else 0


if __name__ == "__main__":
    sys.exit(main())
