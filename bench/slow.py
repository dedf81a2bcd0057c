"""One subscriber in five stops reading: how much the others feel of it, and what becomes of the slow ones.

    python bench/slow.py [PROTOCOL ...]

Prints a Markdown table: the 99th percentile of the other subscribers while the slow ones do not read, and before that,
in one and the same trial. Ends with status 1 where the first is more than twice the second.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from labkit.outage import Outage
from labkit.plan import Plan
from labkit.promises import broken
from labkit.protocols import PROTOCOLS, find
from labkit.recording import Recording
from labkit.results import Run
from labkit.runner import Runner
from labkit.trial import Guarantee, Measure, Timings
from labkit.workload import Workload

WORKLOAD = Workload(rate=100, duration=9, size=65_536, subscribers=5)
FREEZE = Outage("consumer-freeze", at=3.0, lasts=3.0, share=0.2)
"""20 MB fall due for a subscriber that does not read: far more than the kernel and a queue of 8 MiB hold."""

LIMIT = 2.0


def p99(recording: Recording, frozen: bool) -> float:
    """Milliseconds, of the subscribers that read, over the events due while the others did not, or before that."""
    outcome, due = recording.outcome, recording.offer.due_ns
    ((cut, healed),) = outcome.windows
    chosen = (due >= cut) & (due < (healed or 0)) if frozen else due < cut
    arrived = outcome.arrived_ns[recording.trial.struck :, chosen]
    late = (arrived - due[chosen])[arrived > 0]
    return float(np.quantile(late, 0.99)) / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help="all by default")
    names = tuple(parser.parse_args().protocols or PROTOCOLS)
    guarantees = (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE)
    plan = Plan(WORKLOAD, names, guarantees, (Measure.LOSS,), (FREEZE,), timings=Timings(poll=0.1))
    print("| protocol | guarantee | p99 ms, slow ones stopped | before | ratio | overflowed | lost | promises |")
    print("|---|---|---:|---:|---:|---:|---:|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory(prefix="labkit-slow-") as folder:
        errors = Runner(plan, Path(folder) / "run", sys.argv, lambda *_: None, room=1).run()
        run = Run(Path(folder) / "run")
        for recording, overflowed in zip(run.of(Measure.LOSS), run.loss["overflowed"], strict=True):
            during, before, kept = p99(recording, True), p99(recording, False), broken(recording)
            failed |= during > LIMIT * before or bool(kept)
            cells = [
                *(find(recording.trial.protocol).title, recording.trial.guarantee),
                *(f"{during:.2f}", f"{before:.2f}", f"{during / before:.2f}"),
                *(overflowed, f"{recording.outcome.lost:,}", ", ".join(kept) or "kept"),
            ]
            print(f"| {' | '.join(map(str, cells))} |")
    for name, error in errors.items():
        print(f"{name}: {error}", file=sys.stderr)
    return 1 if failed or errors else 0


if __name__ == "__main__":
    sys.exit(main())
