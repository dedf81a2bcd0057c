"""The report: a run, or a suite's folder, as one page that opens anywhere, for a reader who installs nothing.

Figures, charts and verdicts are those of the lab; here they are gathered, and `data/report.html` lays them out. The
same folder gives the same bytes.
"""

import base64
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
from jinja2 import ChainableUndefined, Environment
from tqdm.auto import tqdm

from labkit import album, charts, claims, collection, demos, disk, manifest
from labkit.captions import WAITS, setting
from labkit.claim import HEADINGS
from labkit.collection import Collection, is_collection
from labkit.errors import UsageError
from labkit.intervals import FIGURES, LEVEL, Interval, measures, metric, summary
from labkit.looks import LOOKS, WIDTH, Chart
from labkit.noise import elsewhere, noise
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.sheet import MEANING, ink
from labkit.sweeps import VIEWS
from labkit.trial import Guarantee, Measure

TITLE = "Event-driven API protocols side by side: what does each cost, and what does it lose when something breaks?"
MARK = b'<meta name="generator" content="labkit '
WORDS = {
    Measure.LATENCY: ("Latency", "p50_ms"),
    Measure.BANDWIDTH: ("Bandwidth", "bytes_per_delivery"),
    Measure.LOSS: ("Disconnect-loss", "lost_percent"),
    Measure.COST: ("Cost", "cpu_us_per_delivery"),
    Measure.DUPLEX: ("Requests and their answers", "p50_ms"),
}
"""How a measure is called, and the first of its figures to look at."""

TOGETHER = ["guarantee", "outage", "at"]
"""What the rows of a table that stand together have in common."""

TYPES = {".csv": "text/csv", ".json": "application/json", ".png": "image/png"}
LARGE = 400_000
"""Bytes from which on a sharp picture takes fewer than the drawing does."""


class Picture(NamedTuple):
    """A chart, by its number in the page; `src` is the drawing itself."""

    number: int
    title: str
    alt: str
    height: float
    src: str


Pictures = Mapping[str, Picture]


def save(folder: Path, out: Path) -> dict[str, str]:
    """Writes the page of a run or of a suite's folder; returns what is not shown, as it says itself.

    UsageError where `folder` is neither, or `out` is no such page.
    """
    if out.is_dir():
        raise UsageError(f"{str(out)!r} is a folder; name a file in it, as {str(out / 'report.html')!r}.")
    if out.exists() and not (out.is_file() and MARK in out.read_bytes()[:500]):
        raise UsageError(f"{str(out)!r} is no report of labkit, and is kept as it is; choose another name.")
    _ = Collection(folder) if is_collection(folder) else Run(folder)
    disk.folder(out.parent)
    text, lacking = _page(folder)
    disk.write(out, text)
    return lacking


def page(folder: Path) -> str:
    """The page as HTML."""
    return _page(folder)[0]


def _page(folder: Path) -> tuple[str, dict[str, str]]:
    """The page, and what it does not show."""
    suite = Collection(folder) if is_collection(folder) else None
    runs, lacking = album.readable(suite) if suite is not None else _alone(Run(folder))
    about = runs[""].manifest if suite is None else suite.about
    claimed = set() if suite is None else set(claims.load()[0])
    kept = [] if suite is None else [folder / collection.FILE, *sorted(folder.glob(f"[!.]*/{demos.FILE}"))]
    figures = {name: summary(run) for name, run in runs.items()}
    pictures, undrawn = _pictures(_of_one(runs[""]) if suite is None else album.drawings(suite))
    lacking |= undrawn
    trials = [recording.trial for run in runs.values() for recording in run.recordings]
    main = next((name for name in runs if name not in claimed), None)
    environment = Environment(autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("labkit").joinpath("data", "report.html").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        version=version("labkit"),
        title=suite.title if suite is not None else _question(pictures),
        about=about,
        busy=elsewhere(about),
        command=" ".join(map(manifest.nameless, about.get("argv", []))),
        repeats=max((trial.repeat for trial in trials), default=1),
        timings=[asdict(trial.timings) for trial in trials],
        waits=WAITS,
        protocols=[row for name, row in PROTOCOLS.items() if any(trial.protocol == name for trial in trials)],
        inks={
            row.title: "#" + bytes(round(255 * part) for part in ink(LOOKS[name])).hex()
            for name, row in PROTOCOLS.items()
        },
        glance=list(_glance(runs[main], figures[main], _of(main, pictures))) if main is not None else [],
        sections=[
            {
                "name": name,
                "claimed": name in claimed,
                "run": run,
                "settings": _settings(run),
                "parts": _parts(run, figures[name], _of(name, pictures)),
                "noise": list(dict.fromkeys(said for measure in measures(run) for said in noise(run, measure))),
                "files": _files(run, figures[name]),
            }
            for name, run in runs.items()
        ],
        several=[picture for name, picture in pictures.items() if "/" not in name],
        cautions=[
            *_cautions(runs),  # the place of a folder on this machine is nobody else's business
            *((name, said.replace(str(folder), folder.name)) for name, said in lacking.items()),
        ],
        verdicts=_verdicts(folder),
        files={path.name: _data(path.suffix, path.read_bytes()) for path in kept},
        level=f"{LEVEL:.0%}",
        meaning=MEANING,
        headings=HEADINGS,
        symbols=claims.VERDICTS,
        width=WIDTH,
    )
    return text, lacking


def _question(pictures: Pictures) -> str:
    """What a run is about: its only chart says that of itself."""
    return next(iter(pictures.values())).title if len(pictures) == 1 else TITLE


def _alone(run: Run) -> tuple[dict[str, Run], dict[str, str]]:
    """One run, and what of it is lacking, as of a suite."""
    return {"": run}, run.lacking


def _of_one(run: Run) -> dict[str, Callable[[], Chart]]:
    return {f"/{name}": partial(draw, run) for name, draw in charts.drawings(run, every=False).items()}


def _of(name: str, pictures: Pictures) -> Pictures:
    """The charts of one run, by name."""
    return {key.rpartition("/")[2]: found for key, found in pictures.items() if key.startswith(f"{name}/")}


def _pictures(drawings: Mapping[str, Callable[[], Chart]]) -> tuple[Pictures, dict[str, str]]:
    """Every chart, by RUN/CHART or the name of one of several runs; and why there is none where one of these lacks."""
    found: dict[str, Picture] = {}
    undrawn: dict[str, str] = {}
    for name, draw in tqdm(drawings.items(), desc="charts", unit="chart", leave=False, disable=not drawings):
        try:
            chart = draw()
        except UsageError as error:
            undrawn[name] = f"no such chart could be drawn: {error}"
            continue
        found[name] = Picture(len(found) + 1, chart.title, chart.alt, chart.height, _drawing(chart))
    return found, undrawn


def _drawing(chart: Chart) -> str:
    """The chart as an address, for double quotes to be put around it: a drawing, or a picture of twice the width."""
    svg = re.sub(rb"\s+", b" ", chart.svg()).replace(b'"', b"'")
    if len(svg) >= LARGE:
        return _data(".png", chart.png(2))
    return "data:image/svg+xml," + quote(svg, safe=" /:;=?@,'()<>!$*+[]{}|^~`")


def _data(suffix: str, data: bytes) -> str:
    return f"data:{TYPES[suffix]};base64,{base64.b64encode(data).decode()}"


def _files(run: Run, figures: pd.DataFrame) -> dict[str, str]:
    """The raw numbers, by file name: the run's tables, its figures, and its manifest."""
    found = {name: text.encode() for name, text in run.tables().items()}
    found["figures.csv"] = figures.to_csv(index=False, lineterminator="\n").encode()
    found[manifest.FILE] = (run.folder / manifest.FILE).read_bytes()
    return {name: _data(Path(name).suffix, data) for name, data in sorted(found.items())}


def _settings(run: Run) -> list[tuple[str, str]]:
    """What was offered and how, each with the measures of which it is told; with none where it is of all."""
    there = [measure for measure in Measure if run.of(measure)]
    said = defaultdict(list)
    for measure in there:
        for line in setting([replace(found.trial, repeat=1) for found in run.of(measure)]):
            said[line].append(WORDS[measure][0])
    return [("" if len(names) == len(there) else ", ".join(names), line) for line, names in said.items()]


def _parts(run: Run, figures: pd.DataFrame, pictures: Pictures) -> list[dict[str, Any]]:
    """Of each measure its table and its charts; `further` are the time lines of all outages but the first."""
    parts = {str(key): _table(run, rows) for key, rows in figures.groupby("measure", sort=False)}
    for name, picture in pictures.items():
        measure = name if name in list(Measure) else "cost" if run.swept else "loss"
        if measure in parts:
            parts[measure]["further" if name.startswith("timeline-") else "pictures"].append(picture)
    return list(parts.values())


def _table(run: Run, figures: pd.DataFrame) -> dict[str, Any]:
    """Rows of protocols under what they have in common, in the run's order; no column for what nothing has."""
    measure, repeats = Measure(figures["measure"].iloc[0]), int(figures["repeats"].max())
    known = set(figures.dropna(subset=["median"])["figure"])
    names = [name for name in FIGURES[measure] if name in known]
    groups: dict[str, list[tuple[str, list[tuple[str, str]]]]] = defaultdict(list)
    for _, rows in figures.groupby([*TOGETHER, "protocol"], sort=False, dropna=False):
        cells: dict[str, Any] = {str(row.figure): row for row in rows.itertuples()}
        first = next(iter(cells.values()))
        row = PROTOCOLS[first.protocol].title, [_cell(cells[name], repeats) for name in names]
        groups[_common(run, first)].append(row)
    return {
        "title": VIEWS[run.swept].title.partition(":")[0] if run.swept else WORDS[measure][0],
        "repeats": repeats,
        "columns": [metric(name) for name in names],
        "groups": groups,
        "pictures": [],
        "further": [],
    }


def _common(run: Run, row: Any) -> str:
    """What the rows of a group have in common, in words."""
    value = VIEWS[run.swept].value(row.at) if run.swept else ""
    return " · ".join(filter(None, [f"{row.guarantee}, {MEANING[Guarantee(row.guarantee)]}", row.outage, value]))


def _cell(row: Any, repeats: int = 1) -> tuple[str, str]:
    """A median as text, and its interval, unless all of it reads the same; or why there is none."""
    median, low, high = (f"{value:,.{metric(row.figure).digits}f}" for value in _interval(row))
    if math.isnan(row.median):
        return "–", ""
    if math.isnan(row.low):
        return median, "" if repeats == 1 else "one repeat" if row.repeats == 1 else "not in every repeat"
    return median, "" if low == high else f"{low} to {high}"


def _interval(row: Any) -> Interval:
    return Interval(row.median, row.low, row.high)


def _glance(run: Run, figures: pd.DataFrame, pictures: Pictures) -> Iterator[dict[str, Any]]:
    """Of each measure the first figure: its lowest and its highest, and whose they are.

    Of several kinds of outage it is the first, as in the chart; of a sweep the first value and the last.
    """
    for measure in measures(run):
        name = VIEWS[run.swept].metrics[0] if run.swept else WORDS[measure][1]
        rows = figures[(figures["measure"] == measure) & (figures["figure"] == name)].dropna(subset=["median"])
        rows = rows[rows["outage"].isin(rows["outage"].head(1))]
        rows = rows[rows["at"].isna() | rows["at"].isin([rows["at"].min(), rows["at"].max()])]
        ends = {}
        for _, group in rows.groupby(TOGETHER, sort=False, dropna=False):
            found: list[Any] = list(group.sort_values("median", kind="stable").itertuples())
            ends[_common(run, found[0])] = _ends(found)
        picture = pictures.get("sweep" if run.swept else str(measure))
        yield {"title": WORDS[measure][0], "metric": metric(name), "ends": ends, "picture": picture}


def _ends(rows: list[Any]) -> list[tuple[str, str]]:
    """The lowest and the highest figure, whose they are, and after an "or" whose interval meets that one."""
    shown = [_cell(row)[0] for row in rows]
    if len(rows) > 1 and len(set(shown)) == 1:
        return [(shown[0], f"all {len(rows)}")]
    found = []
    for end in dict.fromkeys((0, len(rows) - 1)):
        same = [row for row, words in zip(rows, shown, strict=True) if words == shown[end]]
        near = [row for row in rows if row not in same and _interval(row).meets(_interval(rows[end]))]
        names = [PROTOCOLS[row.protocol].title for row in (*same, *near)]
        found.append((shown[end], " or ".join([", ".join(names[: len(same)]), *names[len(same) :]])))
    return found


def _verdicts(folder: Path) -> claims.Verdicts | None:
    """The claims' verdicts where the run answers one of them; what the smallest clients answer is no run's."""
    experiments, every = claims.load()
    if is_collection(folder) and not any((folder / name).is_dir() for name in experiments):
        return None
    found = claims.read(folder)
    asked = [each.id for each in every if {figure.experiment for figure in each.figures} - {claims.CLIENTS}]
    answered = found.frame["id"].isin(asked) & ~found.frame["verdict"].isin(["cited", "not measured"])
    return found if answered.any() else None


def _cautions(runs: Mapping[str, Run]) -> Iterator[tuple[str, str]]:
    """What a reader has to know of these runs besides their noise: the experiment, and what there is about it."""
    for name, run in runs.items():
        if undecided := int((run.loss["verdict"] == "inconclusive").sum()):
            words = "something was still on its way at the end, so what is missing there is not called lost"
            yield name, f"in {undecided:,} of {len(run.loss):,} trials {words}"
