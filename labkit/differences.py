"""Differences: two runs of one workload side by side, and which of their figures differ by more than the repeats do.

A difference exceeds the intervals where the two of them (`labkit.intervals`) do not overlap. An interval of up to five
repeats goes from the lowest to the highest, so then every repeat of one run lies beyond every repeat of the other.
Shuffled, five and five repeats would part like that in 2 of 252 ways, but two and two in 2 of 6: fewer than five say
little. It is stricter than a test of the difference is: what lies within may differ all the same. It tells no cause:
the repeats of one run share an hour of one machine, and what another hour changes is in neither interval.
"""

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from labkit import archive
from labkit.collection import Collection, is_collection
from labkit.errors import UsageError
from labkit.intervals import EVERY, KEYS, Interval, measures, metric, summary
from labkit.noise import noise
from labkit.packing import STEP_NS
from labkit.protocols import PROTOCOLS
from labkit.results import Run, opened
from labkit.trial import COMPARED, Measure

COLUMNS = ["experiment", *KEYS, "figure", "unit", "a", "a_low", "a_high", "b", "b_low", "b_high", "ratio", "verdict"]
COUNTED = {
    "exceeds": "exceed the intervals",
    "within": "within them",
    "the same": "the same",
    "no interval": "without an interval",
}
"""The verdicts on a figure that both runs have, as they are counted. Any other says in which of them it is lacking."""

WARNED = {
    "exceeds": """Of many figures some exceed their intervals by chance, and the intervals do not tell how many: trust
        what several figures agree on, or a third run.""",
    "no interval": "A figure of one repeat, or that some repeats lack, is without an interval: nothing can be said.",
}
"""What there is to say where there is such a verdict."""

ONE = "One repeat has no interval; run both with --repeat 5."
FEW = "With fewer than 5 repeats in both, intervals miss each other by chance quite often; run both with --repeat 5."
NEVER = ("noticed_ms", "recovered_ms")
"""Figures that have no value where it never came to it; of any other that means that too little arrived."""

LACKING = ("never", "not measured")
"""How the verdict begins on a figure that only one of them has a value of, though both measured it."""

COUNTS = ("deliveries", "requests", "connections")
"""Units that the name of a figure says already."""

NOTHING = Interval(math.nan, math.nan, math.nan)
EVENTS = "digest of the events"
WIDTH, INDENT = 118, 9
ASIDE = 'style="text-align:left;vertical-align:top"'


class Differences:
    """Two runs side by side: `frame` to work on, text in a terminal, a table in a notebook.

    The frame has one row a figure; `ratio` is B's median by A's, `verdict` one of `COUNTED`, or where it is lacking.
    notes: experiment -> what there is to know of it, and "" -> of all; runs that are no suites have "" alone.
    """

    def __init__(self, frame: pd.DataFrame, notes: Mapping[str, Sequence[str]]) -> None:
        self.frame, self.notes = frame, notes

    @property
    def counts(self) -> str:
        """How many figures both runs have, and how many of them got which verdict."""
        each = {words: int((self.frame["verdict"] == verdict).sum()) for verdict, words in COUNTED.items()}
        said = ", ".join(f"{count:,} {words}" for words, count in each.items())
        return f"{sum(each.values()):,} figures compared: {said}."

    @property
    def warned(self) -> str:
        """What not to make of it."""
        found = set(self.frame["verdict"])
        return " ".join(" ".join(words.split()) for verdict, words in WARNED.items() if verdict in found)

    def _rows(self, experiment: str) -> list[list[str]]:
        """What exceeds the intervals, the largest ratio first; then what only one of the two ever had."""
        rows = self.frame[self.frame["experiment"] == experiment].to_dict("records")
        exceeding = sorted((row for row in rows if row["verdict"] == "exceeds"), key=_size, reverse=True)
        return [_words(row) for row in [*exceeding, *(row for row in rows if row["verdict"].startswith(LACKING))]]

    def __str__(self) -> str:
        blocks = []
        for name, notes in self.notes.items():
            blocks.append([*filter(None, [name.upper()]), *map(_filled, notes)])
            blocks.append([_line(*row) for row in self._rows(name)])
        blocks.append([self.counts, *filter(None, [_filled(self.warned)])])
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lines = [f"<table><caption>{escape(f'{self.counts} {self.warned}')}</caption>"]
        lines.append(_html("th", ["B / A", "Figure", "A", "B", "B is"]))
        for name, notes in self.notes.items():
            said = "<br>".join(map(escape, filter(None, [name.upper(), *notes])))
            lines.append(f'<tr><td colspan="5" {ASIDE}>{said}</td></tr>')
            lines += [_html("td", row) for row in self._rows(name)]
        return "\n".join([*lines, "</table>"])


def compare_runs(a: Run | Collection | Path | str, b: Run | Collection | Path | str) -> Differences:
    """Sets two runs side by side, or every experiment that two suites' folders both have.

    UsageError where they differ in workload, sweep, link or timings, for then no difference is the protocols' own, and
    where they have no figure in common. An experiment that two suites ran differently is named, and left out.
    """
    mine, theirs = _opened(a), _opened(b)
    if isinstance(mine, Run) and isinstance(theirs, Run):
        return _differences({"": (mine, theirs)}, _apart(mine.manifest, theirs.manifest))
    if isinstance(mine, Collection) and isinstance(theirs, Collection):
        return _differences({name: (mine[name], theirs[name]) for name in mine if name in theirs}, _both(mine, theirs))
    letter, other, suite = ("A", "B", mine) if isinstance(mine, Collection) else ("B", "A", theirs)
    raise UsageError(
        f"{letter} is a suite's folder and {other} is one run; give the sub-folder of an experiment in "
        f"{str(suite.folder)!r}."
    )


def _opened(run: Run | Collection | Path | str) -> Run | Collection:
    if isinstance(run, str | Path) and is_collection(run):
        return Collection(run)
    return run if isinstance(run, Collection) else opened(run)


def _both(a: Collection, b: Collection) -> list[str]:
    """What there is to know of two suites; UsageError where they cannot be compared."""
    quick = [bool(each.about["suite"].get("quick")) for each in (a, b)]
    if quick[0] != quick[1]:
        look, full = "AB" if quick[0] else "BA"
        raise UsageError(f"{look} is quick, which is a look, and {full} is not; run both with --quick, or neither.")
    if not set(a) & set(b):
        raise UsageError("A and B have no experiment in common; give the folders of two runs of one suite.")
    said = ["Both are quick: a look, no measurement."] if quick[0] else []
    alone = ([f"experiment {name}" for name in one if name not in other] for one, other in ((a, b), (b, a)))
    return said + _apart(a.about, b.about) + _only(*alone)


def _differences(pairs: Mapping[str, tuple[Run, Run]], about: list[str]) -> Differences:
    """Of every pair that can be compared; UsageError where none can."""
    refused = {name: why for name, pair in pairs.items() if (why := _refusal(*pair))}
    if len(refused) == len(pairs):
        name, why = next(iter(refused.items()))
        raise UsageError(f"In the experiment {name!r}: {why}" if name else why)
    rows: list[dict[str, Any]] = []
    notes, cautions, apart = {"": about}, [], []
    for name, (a, b) in pairs.items():
        if name in refused:
            notes[name] = [f"Not compared. {refused[name]}"]
            continue
        a, b = (Run(a.folder), Run(b.folder)) if name else (a, b)  # so that no ledgers of a suite stay in memory
        unlike = _unlike(_outages(a), _outages(b))
        found = [row for row in _compared(a, b) if not set(unlike) & set(row["outage"].split(", "))]
        repeats = [max((each.trial.repeat for each in run.recordings), default=0) for run in (a, b)]
        cautions += [ONE] if min(repeats) == 1 else [FEW] if 1 < min(repeats) < EVERY else []
        left_out = [f"Not comparable: outage {_grouped(unlike)}."] if unlike else []
        lacking = [*left_out, *_lacking(found), *_unfinished(a, b)]
        notes[name] = [_told(a, unlike, *repeats), *notes.get(name, []), *lacking, *_troubles(a, b)]
        apart += lacking
        rows += [{"experiment": name, **row} for row in found]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if not frame["verdict"].isin(COUNTED).any():
        why = "; ".join(f"{each[0].lower()}{each[1:-1]}" for each in dict.fromkeys(apart))
        raise UsageError(
            f"A and B have no figure in common{why and f' ({why})'}; give two runs that measured the same of one "
            "protocol."
        )
    notes[""] = [*notes[""], *dict.fromkeys(cautions)]
    return Differences(frame, notes)


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same in two runs, by its name."""
    sweep = about.get("sweep", {})
    link = {f"link's {name}": value for name, value in about.get("conditions", {}).items()}
    swept = {"sweep over": sweep.get("over"), "values": sweep.get("values")}
    events = {EVENTS: about["digest"][:12]} if "digest" in about else {}
    return {**swept, **about.get("workload", {}), **link, **about.get("timings", {}), **events}


def _refusal(a: Run, b: Run) -> str:
    """Why the two cannot be compared, if so. A setting that only one of them knows is no reason."""
    unlike = [f"{name} {each}" for name, each in _unlike(_settings(a.manifest), _settings(b.manifest)).items()]
    if not unlike:
        return ""
    unlike = [each for each in unlike if not each.startswith(EVENTS)] or unlike  # which follow from the others
    said = ", ".join(unlike[:3]) + (f", and {len(unlike) - 3} more" if len(unlike) > 3 else "")
    return (
        f"Only runs of one workload, sweep, link and timings can be compared, and here is {said}; run one of them "
        "again as the other was."
    )


def _unlike(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, str]:
    """What both have, and not the same: name -> the value of each, in words."""
    both = [name for name in mine if name in theirs and mine[name] != theirs[name]]
    return {name: f"{_plain(mine[name])} in A and {_plain(theirs[name])} in B" for name in both}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return "none" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)


def _outages(run: Run) -> dict[str, str]:
    """Each kind, and in which way it came."""
    ways = {}
    for outage in run.manifest.get("outages", []):
        ways[outage["kind"]] = ", ".join(f"{name} {_plain(value)}" for name, value in outage.items() if name != "kind")
    return ways


def _grouped(ways: Mapping[str, str]) -> str:
    """The kinds, together where they came in the same way."""
    alike = {way: ", ".join(kind for kind in ways if ways[kind] == way) for way in ways.values()}
    return "; ".join(f"{kinds}: {way}" for way, kinds in alike.items())


def _told(run: Run, unlike: Mapping[str, str], a: int, b: int) -> str:
    """The settings of both, but for the timings; and the repeats of each."""
    load = run.manifest.get("workload", {})
    names = ("trace", "speed", "subscribers") if load.get("trace") else set(load) - {"trace", "speed", run.swept}
    found = {name: value for name, value in _settings(run.manifest).items() if name in names or name.startswith("link")}
    said = [f"{name} {_plain(value)}" for name, value in found.items() if value or name == "seed"]
    said += [f"sweep over {run.swept} {_plain(run.manifest['sweep'].get('values'))}"] if run.swept else []
    ways = {kind: way for kind, way in _outages(run).items() if kind not in unlike and run.of(Measure.LOSS)}
    said += ["the same timings", *([f"outage {_grouped(ways)}"] if ways else [])]
    return f"In both: {', '.join(said)}. Repeats: {_each(a, b)}."


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what the machines and the versions differ; and the commits, of which one with changes does not tell all."""
    mine, theirs = ({**about.get("machine", {}), **about.get("versions", {})} for about in (a, b))
    unlike = _unlike(mine, theirs)
    others = [f"{name} {values}" for name, values in unlike.items() if name not in ("commit", "dirty")]
    same = "Machine and versions are the same." if set(mine) & set(theirs) else "Machine and versions are unknown."
    commits = []
    for about in (a, b):
        parts = about.get("parts") or [about.get("machine", {})]
        said = [
            f"{(part.get('commit') or 'unknown')[:10]}{' with changes' * bool(part.get('dirty'))}" for part in parts
        ]
        commits.append(", then ".join(dict.fromkeys(said)))
    return [f"What differs: {', '.join(others)}." if others else same, f"Commit: {_each(*commits)}."]


def _each(a: object, b: object) -> str:
    return f"{a} in both" if a == b else f"{a} in A, {b} in B"


def _compared(a: Run, b: Run) -> Iterator[dict[str, Any]]:
    """One row for each figure that either has. Where one is packed, times are the same up to what that rounds off."""
    packed = any((run.folder / archive.FILE).exists() for run in (a, b))
    trials = {
        str(each): a.of(each) or a.recordings for each in measures(a)
    }  # of a sweep's costs they may be of latency
    steps = {name: max((STEP_NS[each.trial.measure] for each in mine), default=0) for name, mine in trials.items()}
    mine, theirs = _figures(a), _figures(b)
    for key in dict.fromkeys([*mine, *theirs]):
        measure, figure = key[0], key[-1]
        unit, x, y = metric(figure).unit, mine.get(key), theirs.get(key)
        verdict = f"only in {'A' if x else 'B'}"
        if x and y:
            verdict = _verdict(x, y, 2e-6 * steps[measure] if packed and unit == "ms" else 0.0)
            verdict = verdict.replace("lacking", LACKING[0] if figure in NEVER else LACKING[1])
        x, y = x or NOTHING, y or NOTHING
        ratio = 1.0 if x.median == y.median else y.median / x.median if x.median else math.inf
        yield dict(zip(COLUMNS[1:], [*key, unit, *x, *y, ratio, verdict], strict=True))


def _figures(run: Run) -> dict[tuple[Any, ...], Interval]:
    found = {}
    for *key, _, median, low, high in summary(run).itertuples(index=False, name=None):
        found[tuple(math.nan if each != each else each for each in key)] = Interval(median, low, high)
    return found


def _verdict(a: Interval, b: Interval, rounding: float) -> str:
    """Of a figure that both measured, or tried to."""
    lacking = [letter for letter, each in (("A", a), ("B", b)) if math.isnan(each.median)]
    if lacking:
        return "in neither" if len(lacking) == 2 else f"lacking in {lacking[0]}"
    if all(abs(x - y) <= rounding or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True)):
        return "the same"
    if math.isnan(a.low) or math.isnan(b.low):
        return "no interval"
    return "within" if a.meets(Interval(b.median, b.low - rounding, b.high + rounding)) else "exceeds"


def _lacking(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What only one of the two measured: a measure, a protocol and so on of which the other has nothing at all."""
    said: dict[str, list[str]] = {"A": [], "B": []}
    for letter, found in said.items():
        theirs = [row for row in rows if row["verdict"] != f"only in {letter}"]
        known = {name: {row[name] for row in theirs} for name in KEYS}
        for row in [row for row in rows if row["verdict"] == f"only in {letter}"]:
            new = [f"{name} {_plain(row[name])}" for name in KEYS if row[name] not in known[name]]
            found.append(new[0] if new else f"{row['measure']} of {_who(row)}")
    return _only(*said.values())


def _only(a: Iterable[str], b: Iterable[str]) -> list[str]:
    alone = {"A": dict.fromkeys(a), "B": dict.fromkeys(b)}
    return [f"Only in {letter}: {'; '.join(names)}." for letter, names in alone.items() if names]


def _unfinished(a: Run, b: Run) -> list[str]:
    """Which of the two lacks trials, be it that it was stopped or that some failed."""
    return [f"Unfinished is {name}: {words}." for name, run in (("A", a), ("B", b)) for words in run.lacking.values()]


def _troubles(a: Run, b: Run) -> list[str]:
    """The trials that failed, and what was noisy."""
    said = []
    for letter, run in (("A", a), ("B", b)):
        heard = dict.fromkeys(words for measure in measures(run) for words in noise(run, measure))
        said += [f"Failed in {letter}: {', '.join(run.errors)}."] if run.errors else []
        said += [f"Noise in {letter}: {'; '.join(heard)}."] if heard else []
    return said


def _who(row: Mapping[Any, Any]) -> str:
    at = "" if math.isnan(row["at"]) else f"at {_plain(row['at'])}"
    return ", ".join(filter(None, [f"{PROTOCOLS[row['protocol']].title} {row['guarantee']}", row["outage"], at]))


def _size(row: Mapping[Any, Any]) -> float:
    """How far a ratio is from 1, whichever way."""
    ratio = row["ratio"]
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def _words(row: Mapping[Any, Any]) -> list[str]:
    """How many times as much it is in B, of what, the figure in each, and which of the two that makes B."""
    about, ratio, exceeds = metric(row["figure"]), row["ratio"], row["verdict"] == "exceeds"
    a, b = (Interval(row[side], row[f"{side}_low"], row[f"{side}_high"]) for side in "ab")
    apart = [(a.median, b.median), (a.high, b.low), (b.high, a.low)] if exceeds else []
    digits = next(n for n in range(about.digits, 20) if all(f"{x:.{n}f}" != f"{y:.{n}f}" for x, y in apart))
    figures = [_figure(each, digits, about.unit, row["verdict"].rpartition(" in ")[0]) for each in (a, b)]
    times = f"×{ratio:.2f}" if ratio >= 1 else f"÷{1 / ratio:.2f}" if ratio > 0 else ""
    times = {math.inf: "from 0", 0.0: "to 0"}.get(ratio, times)
    better = b.median < a.median if about.better == "lower" else b.median > a.median
    measure = "" if row["measure"] in COMPARED or not math.isnan(row["at"]) else f" ({row['measure']})"
    way = ("better" if better else "worse") if exceeds and about.better else ""
    return [times, f"{_who(row)}: {about.label}{measure}", *figures, way]


def _figure(found: Interval, digits: int, unit: str, lacking: str) -> str:
    spread = f" ({found.low:,.{digits}f} to {found.high:,.{digits}f})" if found.low < found.high else ""
    unit = "" if unit in COUNTS else f" {unit}"
    return lacking if math.isnan(found.median) else f"{found.median:,.{digits}f}{unit}{spread}"


def _line(times: str, what: str, a: str, b: str, way: str) -> str:
    words = f"{what}: A {a}, B {b}{way and f', {way}'}"
    return _filled(words, times.ljust(INDENT))


def _filled(text: str, start: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)


def _html(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag} {ASIDE}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
