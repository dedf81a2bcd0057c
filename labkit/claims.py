"""The claims of the textbooks and the experiments that decide them: read, carried out, judged, shown.

Both are data, `data/claims.toml`. A claims run is a folder of run folders, one for each experiment. Each appears whole
or not at all, and what is finished is kept.
"""

import shutil
import tempfile
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from labkit.claim import HEADINGS, Claim
from labkit.demos import load as demonstrations
from labkit.errors import UsageError
from labkit.evidence import Evidence, clients
from labkit.experiment import Experiment
from labkit.results import Run

VERDICTS = {
    "supported": ("✓", "#00664f"),
    "demonstrated": ("✓", "#00664f"),
    "refuted": ("✗", "#a33b00"),
    "it depends": ("±", "#7a4a00"),
    "cited": ("§", "#00558a"),
    "not measured": ("–", "#555555"),
}
"""Every verdict, with its symbol and its colour."""


CLIENTS = "clients"
COLUMNS = ["id", "protocol", "claim", "verdict", "figures", "depends", "why"]
WIDTH, INDENT = 112, 18


class Verdicts:
    """The table of verdicts: `frame` to work on, text in a terminal, a table in a notebook.

    errors: of trials that failed and experiments that are damaged. quick: the experiments that ran a shorter load.
    remedy: how to have repeated what failed, in one sentence.
    """

    def __init__(
        self, frame: pd.DataFrame, errors: Mapping[str, str], quick: Sequence[str] = (), remedy: str = ""
    ) -> None:
        self.frame, self.errors, self.quick, self.remedy = frame, errors, quick, remedy

    def of(self, *protocols: str) -> "Verdicts":
        """Those of some protocols, or of "general" and "choosing"."""
        for name in protocols:
            if name not in HEADINGS:
                raise UsageError(f"There are no claims of {name!r}; choose from {', '.join(HEADINGS)}.")
        return Verdicts(self.frame[self.frame["protocol"].isin(protocols)], self.errors, self.quick, self.remedy)

    @property
    def counts(self) -> str:
        """How many of each, in words, and what of it is quick."""
        counts = self.frame["verdict"].value_counts()
        each = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
        quick = f". Quick, so a look and no measurement: {', '.join(self.quick)}" if self.quick else ""
        return f"{len(self.frame)} claims: {each}{quick}"

    def _rows(self) -> Iterable[tuple[str, list[Any]]]:
        for protocol, heading in HEADINGS.items():
            rows = self.frame[self.frame["protocol"] == protocol]
            if len(rows):
                yield heading, list(rows.itertuples())

    def __str__(self) -> str:
        lines = []
        for heading, rows in self._rows():
            lines += [heading, ""]
            for row in rows:
                lines += [
                    _wrapped(row.claim, f"  {VERDICTS[row.verdict][0]} {row.verdict}"),
                    *map(_wrapped, _notes(row)),
                    "",
                ]
        return "\n".join([*lines, self.counts])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = [
            f"<table><caption>{escape(self.counts)}</caption>",
            _html("th", "Claim", "Verdict", "What it rests on"),
        ]
        for heading, rows in self._rows():
            lines.append(f'<tr><th colspan="3" {ASIDE}>{escape(heading)}</th></tr>')
            for row in rows:
                symbol, colour = VERDICTS[row.verdict]
                word = f'<b style="color:{colour};white-space:nowrap">{symbol} {row.verdict}</b>'
                on = f"<br>on {escape(row.depends)}" if row.verdict == "it depends" else ""
                figures = "<br>".join(map(escape, row.figures.split("\n")))
                lines.append(
                    _html("td", escape(row.claim), word + on, f"{escape(row.why)}<br><small>{figures}</small>")
                )
        return "\n".join([*lines, "</table>"])


ASIDE = 'style="text-align:left;vertical-align:top"'


def _html(tag: str, *cells: str) -> str:
    return "<tr>" + "".join(f"<{tag} {ASIDE}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _notes(row: Any) -> list[str]:
    on = [f"It depends on {row.depends}."] if row.verdict == "it depends" else []
    return [*row.figures.split("\n"), *on, row.why]


def _wrapped(text: str, start: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start.ljust(INDENT), subsequent_indent=" " * INDENT)


def load(path: Path | None = None) -> tuple[dict[str, Experiment], list[Claim]]:
    """Experiments by name, and claims, of a file or of the lab's own; UsageError names the table that is wrong."""
    place = path or files("labkit").joinpath("data", "claims.toml")
    try:
        tables = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"The claims in {str(place)!r} cannot be read: {error}.") from None
    experiments = {name: Experiment.from_table(name, table) for name, table in tables.get("experiment", {}).items()}
    claims = [Claim.from_table(table) for table in tables.get("claim", [])]
    ids = [claim.id for claim in claims]
    for claim in claims:
        if ids.count(claim.id) > 1:
            raise UsageError(f"Two claims have the id {claim.id!r}; give each its own.")
        for name in {figure.experiment for figure in claim.figures} - {*experiments, CLIENTS}:
            raise UsageError(f"The claim {claim.id!r} is of the experiment {name!r}, which there is not.")
    return experiments, claims


def experiment(name: str, out: Path | str | None = None, quick: bool = False) -> Any:
    """Runs one experiment into out/NAME, which appears when it is finished. Without `out` it is a temporary folder.

    Returns its Run, or the frame of demonstrations.
    """
    experiments, _ = load()
    if name not in experiments:
        raise UsageError(f"There is no experiment {name!r}; choose from {', '.join(experiments)}.")
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="labkit-"))
    place, under_way = folder / name, folder / f".{name}"
    if place.exists():
        raise UsageError(f"{str(place)!r} is there already; choose another folder, or remove it.")
    shutil.rmtree(under_way, ignore_errors=True)
    try:
        experiments[name].carry_out(under_way, quick)
        under_way.rename(place)
    finally:
        shutil.rmtree(under_way, ignore_errors=True)
    found = _opened(place)
    return found.run if isinstance(found, Evidence) else found.demonstrations


def run(out: Path | str, quick: bool = False) -> Verdicts:
    """Runs every experiment that `out` does not have yet, and judges all claims. What is finished is kept."""
    if (Path(out) / "manifest.json").exists():
        raise UsageError(f"{str(out)!r} is an ordinary run; choose another folder, or leave out --out to judge it.")
    todo = [name for name in load()[0] if not (Path(out) / name).exists()]
    for name in (progress := tqdm(todo, unit="experiment", desc="claims", dynamic_ncols=True)):
        progress.set_postfix_str(name)
        experiment(name, out, quick)
    return read(out)


def read(run: Run | Path | str) -> Verdicts:
    """The verdicts of a claims run, or of an ordinary run as far as it answers. UsageError when it is neither."""
    experiments, claims = load()
    folder = run.folder if isinstance(run, Run) else Path(run)
    evidence = _evidence(folder, experiments)
    if (folder / "manifest.json").exists():
        return Verdicts(verdicts(claims, evidence), Run(folder).errors)
    quick = [name for name, each in experiments.items() if each.is_quick(evidence[name])]
    errors = {name: _errors(evidence[name]) for name in experiments if (folder / name).is_dir()}
    failed = {f"{name}/{trial}".rstrip("/"): error for name in errors for trial, error in errors[name].items()}
    places = ", ".join(repr(str(folder / name)) for name in errors if errors[name])
    remedy = f"To have it repeated, remove {places} and run `labkit claims --out {folder}` again." if places else ""
    return Verdicts(verdicts(claims, evidence), failed, quick, remedy)


def _errors(found: Any) -> dict[str, str]:
    return {"": str(found)} if isinstance(found, UsageError) else dict(getattr(found, "errors", {}))


def verdicts(claims: Iterable[Claim], evidence: Mapping[str, Any]) -> pd.DataFrame:
    """One row a claim. evidence: experiment -> its frames, or the UsageError that says why there are none."""
    rows = []
    for claim in claims:
        verdict, figures = claim.judge(evidence)
        rows.append((claim.id, claim.protocol, claim.claim, verdict, figures, claim.depends, claim.why))
    return pd.DataFrame(rows, columns=COLUMNS)


def _evidence(folder: Path, experiments: Mapping[str, Experiment]) -> dict[str, Any]:
    there: dict[str, Any] = {CLIENTS: clients()}
    if (folder / "manifest.json").exists():
        plain = Evidence(Run(folder))
        _ = plain.recordings
        return there | {name: each.asked_of(plain) for name, each in experiments.items()}
    there |= {name: _opened(folder / name) for name in experiments if (folder / name).is_dir()}
    if len(there) == 1:
        raise UsageError(f"{str(folder)!r} is no run of claims, nor any run; give a folder that `labkit claims` wrote.")
    again = f"run `labkit claims --out {folder}` again"
    missing = {name: UsageError(f"The experiment {name!r} is not in it; {again}.") for name in experiments}
    return missing | there


def _opened(folder: Path) -> Any:
    try:
        if folder.name == "demonstrations":
            return demonstrations(folder)
        found = Evidence(Run(folder), f"remove {str(folder)!r} and run `labkit claims --out {folder.parent}` again")
        _ = found.recordings
        return found
    except UsageError as error:
        return error
