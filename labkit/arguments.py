"""The words of the command line: each command's options, with their defaults. It decides nothing."""

import argparse
import re
from pathlib import Path

from labkit.outage import OUTAGES
from labkit.plan import SWEPT
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee
from labkit.workload import ARRIVALS, SIZES

PASSED_ON = ("lab", "app")
"""Commands whose further options are those of the program that they start."""


def parsed(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, `command` among them, and what is left for a program that it starts. Bad usage exits with 2."""
    parser = _parser()
    options, rest = parser.parse_known_args(_with_values(arguments))
    if rest and options.command not in PASSED_ON:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options, rest


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

    reference = commands.add_parser(
        "reference", help="every experiment of a suite, repeatedly; what was killed goes on"
    )
    reference.add_argument("--suite", type=Path, metavar="FILE", help="a TOML file of experiments (the lab's own)")
    reference.add_argument("--quick", action="store_true", help="shorter loads, once: a look, not a measurement")
    reference.add_argument("--repeat", type=int, help="times over (5; 1 when quick)")
    reference.add_argument("--seed", type=int, help="of the order (1)")
    reference.add_argument("--out", type=Path, help="the folder, new or empty (runs/<time>)")
    reference.add_argument("--resume", type=Path, metavar="DIR", help="go on with what was begun there")

    launch = commands.add_parser("launch", help="a live server to poke at")
    launch.add_argument("protocol", metavar="PROTOCOL", help=", ".join(PROTOCOLS))
    launch.add_argument("--port", type=int, default=0, help="a free one by default")
    launch.add_argument("--rate", type=float, default=1.0, help="events per second it publishes by itself (1)")

    anatomy = commands.add_parser("anatomy", help="the bytes that deliver one event, part by part")
    anatomy.add_argument("protocol", metavar="PROTOCOL", help=", ".join(PROTOCOLS))
    anatomy.add_argument("--guarantee", default="at-most-once", metavar="G", help=f"{', '.join(Guarantee)} (the first)")
    anatomy.add_argument("--size", type=int, default=256, help="bytes of the event (256)")

    charts = commands.add_parser("charts", help="redraw the charts of a run, without servers")
    charts.add_argument("folder", type=Path, metavar="RUN", help="a run, or a suite's folder")
    charts.add_argument("--out", type=Path, help="where to (RUN/charts)")

    report = commands.add_parser("report", help="one page that opens anywhere: tables, charts, claims, caveats")
    report.add_argument("folder", type=Path, metavar="RUN", help="a run, or a suite's folder")
    report.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)")

    differ = commands.add_parser("compare-runs", help="which differences between two runs exceed their intervals")
    differ.add_argument("a", type=Path, metavar="A", help="a run, or a suite's folder")
    differ.add_argument("b", type=Path, metavar="B", help="one of the same workload")

    pack = commands.add_parser("pack", help="a run or a suite's folder, small enough to publish; it can be redrawn")
    pack.add_argument("folder", type=Path, metavar="RUN")
    pack.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty")

    claims = commands.add_parser("claims", help="what textbooks claim, each with a verdict computed from a run")
    claims.add_argument("folder", type=Path, nargs="?", metavar="RUN", help="judge this run; a new one when left out")
    claims.add_argument("--out", type=Path, help="where the new one goes, or went as far as it got (runs/<time>)")
    claims.add_argument("--quick", action="store_true", help="shorter loads: a look, not a measurement")

    trace = commands.add_parser("trace", help="make an event log to replay")
    trace.add_argument("source", choices=["git"], help="one push-like event per commit")
    trace.add_argument("repository", type=Path, metavar="REPO")
    trace.add_argument("--out", type=Path, required=True, metavar="FILE")

    doctor = commands.add_parser("doctor", help="is this machine ready for a workshop? with the fix where it is not")
    doctor.add_argument("--quick", action="store_true", help="look only, try no protocol")

    commands.add_parser("lab", help="JupyterLab on the notebooks; further options are JupyterLab's own")

    commands.add_parser("app", help="the dashboard alone on a page; further options are Voila's own")
    return parser


def _with_values(arguments: list[str]) -> list[str]:
    """`--values -5,10` as one word: argparse would take what begins with a minus for an option."""
    at = arguments.index("--values") if "--values" in arguments[:-1] else -1
    if at < 0 or not re.match(r"-[\d.]", arguments[at + 1]):
        return arguments
    return [*arguments[:at], f"--values={arguments[at + 1]}", *arguments[at + 2 :]]
