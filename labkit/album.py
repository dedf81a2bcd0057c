"""An album: every chart of a suite's folder, by name. What a chart draws from several runs is data of the suite."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from labkit import charts, choice
from labkit.claims import load as load_claims
from labkit.collection import Collection
from labkit.demos import FILE
from labkit.errors import UsageError, shown
from labkit.evidence import demonstrations
from labkit.looks import Chart
from labkit.suite import named


def drawings(found: Collection) -> dict[str, Callable[[], Chart]]:
    """EXPERIMENT/CHART -> what draws it, then those of several runs.

    What is run for the claims alone, or for a chart of several, has none of its own.
    """
    several = {name for table in found.charts.values() for name in named(table)}
    album: dict[str, Callable[[], Chart]] = {}
    for name, run in found.items():
        if name not in {*load_claims()[0], *several}:
            mine = charts.drawings(run, every=False)
            album |= {f"{name}/{chart}": partial(draw, run) for chart, draw in mine.items()}
    return album | {name: partial(_several, found, name, table) for name, table in found.charts.items()}


def save(found: Collection, out: Path) -> list[Path]:
    """Draws every chart and writes all to out/NAME.{png,svg}; returns the paths."""
    album = tqdm(drawings(found).items(), desc="charts", unit="chart", leave=False)
    return charts.write({name: charts.files(draw()) for name, draw in album}, out)


def _several(found: Collection, name: str, table: Any) -> Chart:
    """A chart of several runs: an overlay of them, or a ranking by weights."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"A chart is called {shown(name)}, which is no file's name; use letters and hyphens.")
    if not named(table):
        fix = "it is of overlay, with a run for each label, or of cost, loss and weights"
        raise UsageError(f"The chart {name!r} is {shown(table)}; {fix}.")
    if "overlay" in table:
        return charts.overlay({label: found[experiment] for label, experiment in table["overlay"].items()})
    facts = [demonstrations(path.parent).demonstrations for path in sorted(found.folder.glob(f"[!.]*/{FILE}"))]
    tried = [frame[frame["demonstration"] == "reach"] for frame in facts]
    if reach := [frame for frame in tried if len(frame)]:
        return charts.ranking(choice.table(found[table["cost"]], found[table["loss"]], reach[0]), table["weights"])
    raise UsageError(f"The chart {name!r} needs demonstrations of reach, and {str(found.folder)!r} has none.")
