"""The command line. It parses, calls one function and prints; a user's mistake is one sentence, never a traceback.

Exit status: 0 done, 1 a trial failed, 2 bad usage, 130 stopped with Ctrl-C.
"""

import argparse
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.arguments import PASSED_ON, parsed
from labkit.errors import TrialError, UsageError
from labkit.outage import Conditions
from labkit.protocols import PROTOCOLS
from labkit.trial import COMPARED, Measure, Timings
from labkit.workload import Workload

if TYPE_CHECKING:
    from labkit.results import Run

QUICK: dict[str, Any] = {"duration": 0.5}
QUICK_TIMINGS = Timings(heartbeat=0.5, poll=0.1)
DISK = {"ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EACCES", "EPERM", "ENOENT"}
"""What goes wrong with files, and may go well in another place."""

NAMES = {"EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP"}
"""What is wrong with the name of a place."""

OF_THE_TRACE = ("rate", "duration", "size", "sizes", "topics", "arrival")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options, rest = parsed(arguments)
    try:
        status = COMMANDS[options.command](options, rest if options.command in PASSED_ON else arguments)
    except UsageError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 2
    except TrialError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"labkit: {_trouble(error)}.", file=sys.stderr)
        return 2 if errno.errorcode.get(error.errno or 0) in NAMES else 1
    except KeyboardInterrupt:
        print("\nlabkit: stopped.", file=sys.stderr)
        return 130
    return status


def _trouble(error: OSError) -> str:
    """What the system said, and what helps where it is about the disk; a failed connection is an OSError too."""
    reason = getattr(error, "reason", error)  # of a URLError
    place = f" {str(error.filename)!r}" if error.filename else ""
    code = errno.errorcode.get(error.errno or 0)
    fix = "; make room, or choose another place" if code in DISK else "; choose another place" if code in NAMES else ""
    return f"{getattr(reason, 'strerror', None) or reason}{place}{fix}"


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


def _reference(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit import campaign, suite
    from labkit.collection import is_collection

    given = {name: getattr(options, name) for name in ("suite", "repeat", "seed", "out", "quick")}
    wrong = [name for name, value in given.items() if value is not None and value is not False]
    if options.resume and wrong:
        raise UsageError(f"--{wrong[0]} was said when {str(options.resume)!r} was begun; leave it out to go on.")
    out = options.resume or options.out or _new_folder()
    try:
        if options.resume:
            found = campaign.resume(out)
        else:
            path, seed = options.suite or suite.REFERENCE, 1 if options.seed is None else options.seed
            found = campaign.begin(suite.load(path, seed, options.repeat, options.quick), out, argv)
    except (KeyboardInterrupt, TrialError, OSError) as reason:
        if not is_collection(out):
            raise
        again = f"`labkit reference --resume {out}` goes on."
        if not isinstance(reason, KeyboardInterrupt):  # a full disk; a trial that fails by itself ends nothing
            raise TrialError(f"{f'{_trouble(reason)}.' if isinstance(reason, OSError) else reason} {again}") from None
        print(f"\nlabkit: stopped; {again}", file=sys.stderr)
        return 130
    print(f"{sum(len(run.manifest['trials']) for run in found.values()):,} trials in {out}")
    for name, error in found.errors.items():
        print(f"labkit: {name}: {error}", file=sys.stderr)
    if found.errors:
        print(f"labkit: `labkit reference --resume {out}` tries again what failed.", file=sys.stderr)
    return 1 if found.errors else 0


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
    from labkit import album, charts
    from labkit.collection import Collection, is_collection
    from labkit.results import Run

    out = options.out or options.folder / "charts"
    if is_collection(options.folder):
        paths, lacking = album.save(Collection(options.folder), out)
    else:
        run = Run(options.folder)
        paths, lacking = charts.save(run, out), run.lacking
    for path in paths:
        print(path)
    if beside := charts.others(paths):
        some = ", ".join(str(path) for path in beside[:3]) + (", ..." if beside[3:] else "")
        print(f"labkit: charts of another run lie beside these, and were left as they are: {some}", file=sys.stderr)
    return _lacking(lacking, options.folder)


def _lacking(lacking: dict[str, str], folder: Path) -> int:
    """Says what a run, or an experiment of a suite, lacks; returns the exit status."""
    for name, said in lacking.items():
        print(f"labkit: {name or folder}: {said.rstrip('.')}.", file=sys.stderr)
    if any(lacking):
        print(f"labkit: `labkit reference --resume {folder}` goes on with what has not finished.", file=sys.stderr)
    return 1 if lacking else 0


def _report(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.report import save

    lacking = save(options.folder, options.out)
    print(options.out)
    return _lacking(lacking, options.folder)


def _compare_runs(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.differences import compare_runs

    print(compare_runs(options.a, options.b))
    return 0


def _pack(options: argparse.Namespace, argv: list[str]) -> int:
    from labkit.packing import pack

    pack(options.folder, options.out)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size:,} bytes")
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
    return _become(["jupyterlab", f"--notebook-dir={_notebooks()}", *argv], {})


def _app(options: argparse.Namespace, argv: list[str]) -> int:
    folder = _notebooks()
    if find_spec("voila") is None:
        raise UsageError("Voila is not installed; pip install 'labkit[app]' installs it.")
    # Voila 0.5 never gives its page the token with which that page, when it is closed, has to end its kernel.
    # Whose page a request comes from is checked all the same.
    settings = "--Voila.tornado_settings=disable_check_xsrf=True"
    command = [
        "voila",
        "--template=projector",
        "--TagRemovePreprocessor.remove_cell_tags=lesson",
        settings,
        # What it adds to JupyterLab's file browser is an error where there is none.
        "--VoilaConfiguration.extension_denylist=@jupyterhub/jupyter-server-proxy",
        *argv,
        str(folder / "10_dashboard.ipynb"),
    ]
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("JUPYTER_PATH")]))
    return _become(command, {"JUPYTER_PATH": paths})


def _become(module: list[str], more: dict[str, str]) -> int:
    """Runs a module in the place of this process, so that whoever ends this one ends that."""
    command, environment = [sys.executable, "-m", *module], os.environ | more
    if sys.platform == "win32":
        return subprocess.call(command, env=environment)
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def _notebooks() -> Path:
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        raise UsageError(f"There are no notebooks at {str(folder)!r}; run it from a checkout installed with pip -e.")
    return folder


COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], int]] = {
    "compare": _compare,
    "sweep": _sweep,
    "reference": _reference,
    "launch": _launch,
    "anatomy": _anatomy,
    "charts": _charts,
    "report": _report,
    "compare-runs": _compare_runs,
    "pack": _pack,
    "claims": _claims,
    "trace": _trace,
    "doctor": _doctor,
    "lab": _lab,
    "app": _app,
}
