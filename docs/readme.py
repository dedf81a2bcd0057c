"""Puts the reference data's figures and charts into the README: python docs/readme.py CHARTS

CHARTS is where `labkit charts data/reference --out CHARTS` drew. The table between the README's two marks is made anew,
and the pictures that it shows are copied beside this script.
"""

import shutil
import sys
from pathlib import Path

import pandas as pd

from labkit.collection import Collection, reference
from labkit.errors import UsageError
from labkit.intervals import Interval, metric, summary
from labkit.protocols import PROTOCOLS

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- figures of data/reference, made by docs/readme.py -->", "<!-- end of figures -->"
PICTURES = {
    "latency.svg": "comparison/latency.svg",
    "bandwidth.svg": "comparison/bandwidth.svg",
    "loss.svg": "comparison/loss.svg",
    "matrix.png": "break-matrix/matrix.png",
    "timeline.png": "comparison/timeline.png",
    "sequence.png": "sequence/sequence-websocket.png",
}
COLUMNS = {
    ("latency", "p50_ms"): "p50",
    ("latency", "p99_ms"): "p99",
    ("bandwidth", "bytes_per_delivery"): "bytes per delivery",
    ("bandwidth", "setup_each"): "set-up, bytes",
    ("bandwidth", "idle_each"): "idle, bytes/s",
    ("loss", "lost_percent"): "lost",
}


def figures(found: Collection) -> str:
    """The table of the comparison: medians of the repeats, with intervals where they are not exact."""
    rows = summary(found["comparison"])
    lines = [f"| protocol | guarantee | {' | '.join(COLUMNS.values())} |", "|---|---|" + "---:|" * len(COLUMNS)]
    for (protocol, guarantee), mine in rows.groupby(["protocol", "guarantee"], sort=False):
        cells = [_cell(mine, *key) for key in COLUMNS]
        lines.append(f"| {PROTOCOLS[str(protocol)].title} | {guarantee} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: pd.DataFrame, measure: str, figure: str) -> str:
    """One figure with its unit and interval; a dash where too few arrived for it."""
    row = rows[(rows["measure"] == measure) & (rows["figure"] == figure)].iloc[0]
    about, (median, low, high) = metric(figure), Interval(row["median"], row["low"], row["high"])
    if pd.isna(median):
        return "–"
    if pd.isna(low):
        return f"{median:,.{about.digits}f} in some"
    digits = about.digits if median < 1000 else 0
    words = [f"{value:,.{digits}f}" for value in (median, low, high)]
    unit = about.unit if about.unit in ("ms", "%") else ""
    bounds = f" ({words[1]} to {words[2]})" if words[1] != words[2] else ""
    return f"{words[0]}{bounds} {unit}".rstrip()


def main(charts: Path) -> None:
    """Writes the README and its pictures, or ends with a sentence that says what is missing."""
    if missing := [source for source in PICTURES.values() if not (charts / source).is_file()]:
        sys.exit(f"{str(charts)!r} has no {missing[0]}; draw it with `labkit charts data/reference --out {charts}`.")
    try:
        table = figures(reference())
    except UsageError as error:
        sys.exit(str(error))
    text = README.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"README.md has not each of its marks once: {BEGIN} and {END}")
    for name, source in PICTURES.items():
        shutil.copyfile(charts / source, HERE / name)
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "charts"))
