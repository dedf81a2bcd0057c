"""An album: every chart of a suite's folder, by name. What a chart draws from several runs is data of the suite."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from labkit import charts, choice
from labkit.claims import load as load_claims
from labkit.collection import Collection
from labkit.demos import FILE
from labkit.demos import load as demonstrations
from labkit.errors import UsageError
from labkit.looks import Chart
from labkit.results import Run
from labkit.runner import TRACE
from labkit.several import REACH, check_table, named


def readable(found: Collection, shown: Iterable[str] | None = None) -> tuple[dict[str, Run], dict[str, str]]:
    """The runs that can be shown; and what of the suite is lacking, by experiment, in words.

    shown: those whose trials are to be read, by default all; of the others it is said whether they have finished.
    """
    wanted = set(found if shown is None else shown)
    runs: dict[str, Run] = {}
    lacking: dict[str, str] = {}
    for name, table in found.about["suite"]["tables"].items():
        place = found.folder / name
        try:
            if not _begun(place):
                lacking[name] = "it was not begun, so nothing of it is shown"
            elif table.get("kind") == "demonstrations":
                _ = demonstrations(place)
            else:
                run = found[name] if name in found else Run(place)
                _ = run.recordings if name in wanted else None
                lacking.update((name, said) for said in run.lacking.values())
                runs[name] = run
        except UsageError as error:
            lacking[name] = f"nothing of it is shown: {error}"
    return runs, lacking


def _begun(place: Path) -> bool:
    """Whether an experiment has come to anything; its trace, if it plays one, lies there from the start."""
    return place.exists() and not (place.is_dir() and all(path.name.startswith(TRACE) for path in place.iterdir()))


def drawings(found: Collection) -> dict[str, Callable[[], Chart]]:
    """EXPERIMENT/CHART -> what draws it, then those of several runs.

    What is run for the claims alone, or for a chart of several, has none of its own.
    """
    return _drawings(found, readable(found, _drawn_alone(found))[0])


def _drawn_alone(found: Collection) -> list[str]:
    several = {name for table in found.charts.values() for name in named(table)}
    return [name for name in found if name not in {*load_claims()[0], *several}]


def _drawings(found: Collection, runs: Mapping[str, Run]) -> dict[str, Callable[[], Chart]]:
    album: dict[str, Callable[[], Chart]] = {}
    for name in (name for name in _drawn_alone(found) if name in runs):
        mine = charts.drawings(runs[name], every=False)
        album |= {f"{name}/{chart}": partial(draw, runs[name]) for chart, draw in mine.items()}
    return album | {name: partial(_several, found, name, table) for name, table in found.charts.items()}


def save(found: Collection, out: Path) -> tuple[list[Path], dict[str, str]]:
    """Writes every chart that can be drawn to out/NAME.{png,svg}; returns the paths, and what is lacking and why."""
    runs, lacking = readable(found, _drawn_alone(found))
    written, undrawn = charts.write(_drawings(found, runs), out, _by_two)
    return written, lacking | undrawn


def _by_two(drawings: charts.Named) -> Iterator[charts.Drawn]:
    """Draws every second chart in a process of its own, where a fork has all at hand that was read."""
    mine, theirs = (dict(list(drawings.items())[first::2]) for first in (0, 1))
    if sys.platform != "linux" or not theirs:
        yield from charts.drawn(drawings)
        return
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    gc.disable()  # nor looked through for garbage, again and again, in either process
    other = context.Process(target=_draw, args=(theirs, sender), daemon=True)
    other.start()
    sender.close()
    try:
        yield from charts.drawn(mine)
        yield from receiver.recv()
        other.join()
    finally:
        other.kill()
        other.join()
        other.close()
        receiver.close()
        gc.enable()


def _draw(drawings: charts.Named, sender: "Connection[Any, Any]") -> None:
    """Sends charts to the parent, in one piece; ends when that has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's
    parent, found = os.getppid(), []
    for each in charts.drawn(drawings):
        found.append(each)
        if os.getppid() != parent:
            return
    sender.send(found)


def _several(found: Collection, name: str, table: Any) -> Chart:
    """A chart of several runs: an overlay of them, or a ranking by weights."""
    check_table(name, table)
    for each in named(table):
        if each in found.about["suite"]["tables"] and each not in found:
            raise UsageError(f"The run {each!r} was not begun; `labkit reference --resume {found.folder}` goes on.")
    if "overlay" in table:
        return charts.overlay({label: found[experiment] for label, experiment in table["overlay"].items()})
    facts = [demonstrations(path.parent).demonstrations for path in sorted(found.folder.glob(f"[!.]*/{FILE}"))]
    tried = [frame[frame["demonstration"] == REACH] for frame in facts]
    if reach := [frame for frame in tried if len(frame)]:
        cost, loss = found[table["cost"]], found[table["loss"]]
        return charts.ranking(choice.table(cost, loss, reach[0]), table["weights"], [cost, loss])
    raise UsageError(f"The chart {name!r} needs demonstrations of {REACH}, and {str(found.folder)!r} has none.")
