"""The command line. It parses, calls one function and prints; a user's mistake is one sentence, never a traceback.

Exit status: 0 done, 1 a trial failed, 2 bad usage, 130 stopped with Ctrl-C.
"""

import argparse
import errno
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import TrialError, UsageError
from labkit.outage import OUTAGES, Conditions
from labkit.plan import SWEPT
from labkit.protocols import PROTOCOLS
from labkit.trial import COMPARED, Guarantee, Measure, Timings
from labkit.workload import ARRIVALS, SIZES, Workload

if TYPE_CHECKING:
    from labkit.results import Run

QUICK: dict[str, Any] = {"duration": 0.5}
QUICK_TIMINGS = Timings(heartbeat=0.5, poll=0.1)
DISK = {"ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EACCES", "EPERM", "ENOENT", "EEXIST", "ENOTDIR", "EISDIR"}
"""What goes wrong with files, and may go well in another place."""

OF_THE_TRACE = ("rate", "duration", "size", "sizes", "topics", "arrival")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options, rest = _parser().parse_known_args(_with_values(arguments))
    if rest and options.command != "lab":
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options, rest if options.command == "lab" else arguments)
    except UsageError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 2
    except TrialError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"labkit: {_trouble(error)}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlabkit: stopped.", file=sys.stderr)
        return 130
    return status


def _with_values(arguments: list[str]) -> list[str]:
    """`--values -5,10` as one word: argparse would take what begins with a minus for an option."""
    at = arguments.index("--values") if "--values" in arguments[:-1] else -1
    if at < 0 or not re.match(r"-[\d.]", arguments[at + 1]):
        return arguments
    return [*arguments[:at], f"--values={arguments[at + 1]}", *arguments[at + 2 :]]


def _trouble(error: OSError) -> str:
    """What the system said, and what helps where it is about the disk; a failed connection is an OSError too."""
    reason = getattr(error, "reason", error)  # of a URLError
    place = f" {str(error.filename)!r}" if error.filename else ""
    fix = "; make room, or choose another place" if errno.errorcode.get(error.errno or 0) in DISK else ""
    return f"{getattr(reason, 'strerror', None) or reason}{place}{fix}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="labkit", description="Event-driven API protocols side by side.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    compare = commands.add_parser("compare", help="drive one workload through the protocols; tables and charts")
    compare.add_argument("--protocol", nargs="+", action="extend", metavar="P", help="all by default")
    compare.add_argument(
        "--guarantee", nargs="+", action="extend", metavar="G", help=f"{', '.join(Guarantee)} (the first two)"
    )
    compare.add_argument("--rate", type=float, help="events per second (200)")
    compare.add_argument("--size", type=int, help="bytes of an event (256)")
    compare.add_argument("--subscribers", type=int, help="how many (10)")
    compare.add_argument("--duration", type=float, help="seconds of load (3)")
    compare.add_argument("--topics", type=int, help="above 1, each subscriber takes one of them (1)")
    compare.add_argument("--arrival", metavar="A", help=f"{', '.join(ARRIVALS)} (constant)")
    compare.add_argument("--sizes", metavar="S", help=f"{', '.join(SIZES)} (fixed)")
    compare.add_argument("--seed", type=int, help="of everything random (1)")
    compare.add_argument("--trace", metavar="FILE", help="replay a .jsonl or .csv event log instead")
    compare.add_argument("--speed", type=float, help="so many times faster than the trace (1)")
    compare.add_argument("--outage", metavar="KIND", help=f"{', '.join(OUTAGES)}, all, or none (reset)")
    compare.add_argument("--delay", type=float, metavar="MS", help="the link takes so long, each way (0)")
    compare.add_argument("--jitter", type=float, metavar="MS", help="and up to so much longer (0)")
    compare.add_argument("--bandwidth", type=float, metavar="KB", help="kilobytes it carries a second, each way (all)")
    compare.add_argument("--duplex", action="store_true", help="requests and their answers besides: duplex.csv")
    compare.add_argument("--quick", action="store_true", help="half a second of load: a look, not a measurement")
    compare.add_argument("--repeat", type=int, default=1, help="times over (1)")
    compare.add_argument("--out", type=Path, help="the run folder, new or empty (runs/<time>)")
    compare.set_defaults(run=_compare)

    sweep = commands.add_parser("sweep", help="the same workload at several values of one parameter")
    sweep.add_argument("--over", required=True, metavar="WHAT", help=", ".join(SWEPT))
    sweep.add_argument("--values", required=True, metavar="A,B,C", help="in turn; intervals in seconds")
    sweep.add_argument("--protocol", nargs="+", action="extend", metavar="P", help="all by default")
    sweep.add_argument(
        "--guarantee", nargs="+", action="extend", metavar="G", help="(at-most-once; for the interval at-least-once)"
    )
    for name in ("rate", "duration"):
        sweep.add_argument(f"--{name}", type=float, help="as for compare")
    for name in ("size", "subscribers", "topics", "seed"):
        sweep.add_argument(f"--{name}", type=int, help="as for compare")
    sweep.add_argument("--repeat", type=int, default=1, help="times over (1)")
    sweep.add_argument("--out", type=Path, help="the run folder, new or empty (runs/<time>)")
    sweep.set_defaults(run=_sweep)

    launch = commands.add_parser("launch", help="a live server to poke at")
    launch.add_argument("protocol", metavar="PROTOCOL", help=", ".join(PROTOCOLS))
    launch.add_argument("--port", type=int, default=0, help="a free one by default")
    launch.add_argument("--rate", type=float, default=1.0, help="events per second it publishes by itself (1)")
    launch.set_defaults(run=_launch)

    anatomy = commands.add_parser("anatomy", help="the bytes that deliver one event, part by part")
    anatomy.add_argument("protocol", metavar="PROTOCOL", help=", ".join(PROTOCOLS))
    anatomy.add_argument("--guarantee", default="at-most-once", metavar="G", help=f"{', '.join(Guarantee)} (the first)")
    anatomy.add_argument("--size", type=int, default=256, help="bytes of the event (256)")
    anatomy.set_defaults(run=_anatomy)

    charts = commands.add_parser("charts", help="redraw the charts of a run, without servers")
    charts.add_argument("folder", type=Path, metavar="RUN")
    charts.add_argument("--out", type=Path, help="where to (RUN/charts)")
    charts.set_defaults(run=_charts)

    claims = commands.add_parser("claims", help="what textbooks claim, each with a verdict computed from a run")
    claims.add_argument("folder", type=Path, nargs="?", metavar="RUN", help="judge this run; a new one when left out")
    claims.add_argument("--out", type=Path, help="where the new one goes, or went as far as it got (runs/<time>)")
    claims.add_argument("--quick", action="store_true", help="shorter loads: a look, not a measurement")
    claims.set_defaults(run=_claims)

    trace = commands.add_parser("trace", help="make an event log to replay")
    trace.add_argument("source", choices=["git"], help="one push-like event per commit")
    trace.add_argument("repository", type=Path, metavar="REPO")
    trace.add_argument("--out", type=Path, required=True, metavar="FILE")
    trace.set_defaults(run=_trace)

    doctor = commands.add_parser("doctor", help="is this machine ready for a workshop? with the fix where it is not")
    doctor.add_argument("--quick", action="store_true", help="look only, try no protocol")
    doctor.set_defaults(run=_doctor)

    lab = commands.add_parser("lab", help="JupyterLab on the notebooks; further options are JupyterLab's own")
    lab.set_defaults(run=_lab)
    return parser


def _compare(options: argparse.Namespace, argv: list[str]) -> int:
    workload = _workload(options)
    from labkit.api import compare

    outage = _outage(options.outage, workload)
    out = options.out or _new_folder()
    try:
        run = compare(
            workload,
            protocols=dict.fromkeys(options.protocol or PROTOCOLS),
            guarantees=dict.fromkeys(options.guarantee) if options.guarantee else None,
            outage=outage,
            measures=(*COMPARED, Measure.DUPLEX) if options.duplex else COMPARED,
            conditions=_conditions(options),
            repeat=options.repeat,
            timings=QUICK_TIMINGS if options.quick else None,
            out=out,
            argv=argv,
        )
    except KeyboardInterrupt:
        print(f"\nlabkit: stopped; the finished trials are in {out}.", file=sys.stderr)
        return 130
    for measure in Measure:
        if run.of(measure):
            print(f"\n{measure.upper()}\n{run.table(measure)}")
    return _summary(run)


def _summary(run: "Run") -> int:
    """Says where the charts are, and what failed; returns the exit status."""
    print(f"\nCharts: {run.folder / 'charts'}")
    for name, error in run.errors.items():
        print(f"labkit: {name}: {error}", file=sys.stderr)
    return 1 if run.errors else 0


def _new_folder() -> Path:
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def _sweep(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.api import sweep

    try:
        values = [float(value) for value in options.values.split(",")]
    except ValueError:
        raise UsageError(f"--values {options.values!r} is no list of numbers; write them as 1,10,100.") from None
    names = ("rate", "duration", "size", "subscribers", "topics", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.over in given:
        raise UsageError(f"--{options.over} {given[options.over]} is what is swept over; leave it out.")
    out = options.out or _new_folder()
    try:
        run = sweep(
            options.over,
            values,
            Workload(**{"duration": 1.0, **given}),
            protocols=dict.fromkeys(options.protocol) if options.protocol else None,
            guarantees=dict.fromkeys(options.guarantee) if options.guarantee else None,
            repeat=options.repeat,
            out=out,
            argv=argv,
        )
    except KeyboardInterrupt:
        print(f"\nlabkit: stopped; the finished trials are in {out}.", file=sys.stderr)
        return 130
    print(f"\n{run.table(Measure.COST)}")
    return _summary(run)


def _workload(options: argparse.Namespace) -> Workload:
    names = (*OF_THE_TRACE, "subscribers", "seed", "trace", "speed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.trace is None:
        if options.speed is not None:
            raise UsageError("--speed compresses the time of a trace; give it together with --trace FILE.")
        return Workload(**{**(QUICK if options.quick else {}), **given})
    for name in OF_THE_TRACE:
        if name in given:
            raise UsageError(f"--{name} {given[name]} does not go with --trace, which has its own; leave it out.")
    return Workload(**given)


def _outage(kind: str | None, workload: Workload) -> str | None:
    """The kind asked for; by default a reset, unless the load is so short that no outage fits into it."""
    if kind == "none" or (kind is None and workload.length < 0.1):
        return None
    return "reset" if kind is None else kind


def _conditions(options: argparse.Namespace) -> Conditions:
    """The link's conditions, from the milliseconds and kilobytes of the command line."""
    scales = {"delay": 1e-3, "jitter": 1e-3, "bandwidth": 1e3}
    return Conditions(**{name: (getattr(options, name) or 0) * scale for name, scale in scales.items()})


def _launch(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.server import launch

    with launch(options.protocol, options.port, options.rate) as server:
        print(server)
        print("Ctrl-C ends it.", flush=True)
        pause = threading.Event()
        while not pause.wait(0.5):
            server.check()
    return 0


def _anatomy(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.dissect import anatomy

    print(anatomy(options.protocol, options.guarantee, options.size).text(colour=sys.stdout.isatty()))
    return 0


def _charts(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.charts import save
    from labkit.results import Run

    for path in save(Run(options.folder), options.out or options.folder / "charts"):
        print(path)
    return 0


def _claims(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.claims import read, run

    if options.folder and (options.out or options.quick):
        raise UsageError(f"--out and --quick are for a new run; leave them out, or the folder {str(options.folder)!r}.")
    out = options.out or _new_folder()
    try:
        found = read(options.folder) if options.folder else run(out, options.quick)
    except KeyboardInterrupt:
        print(f"\nlabkit: stopped; `labkit claims --out {out}` goes on with what is missing.", file=sys.stderr)
        return 130
    print(found if options.folder else f"{found}\nRun: {out}")
    for name, error in found.errors.items():
        print(f"labkit: {name}: {error}", file=sys.stderr)
    if found.remedy:
        print(f"labkit: {found.remedy}", file=sys.stderr)
    return 1 if found.errors else 0


def _trace(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.trace import from_git, save

    entries = from_git(options.repository)
    save(entries, options.out)
    print(f"{len(entries)} events in {options.out}")
    return 0


def _doctor(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.doctor import examine
    from labkit.findings import State, verdict

    found = []
    for finding in examine(options.quick):
        print(finding, flush=True)
        found.append(finding)
    print(f"\n{verdict(found, options.quick)}")
    return int(any(finding.state is State.FAULT for finding in found))


def _lab(options: argparse.Namespace, argv: list[str]) -> int:
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        raise UsageError(f"There are no notebooks at {str(folder)!r}; run it from a checkout installed with pip -e.")
    return subprocess.call([sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", *argv])
