"""Anatomy: the exact bytes with which a protocol delivers one event, part by part, from a real exchange.

Promises that the parts of a phase add up to what the link counted in it, in each direction. It shows what crossed the
link of one small trial and runs no measurement: for figures to compare, see the bandwidth of a comparison.
"""

import html
import secrets
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import accumulate, groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from labkit import broker
from labkit.audit import Records
from labkit.errors import TrialError, UsageError
from labkit.ledger import Kind, are, read
from labkit.link import TAP
from labkit.protocols import find
from labkit.station import Station
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.walk import Walk
from labkit.wire import KINDS, Part, parts
from labkit.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

TIMINGS = Timings(poll=0.06)
"""Polls that find nothing new come within the time for which a trial waits after the last arrival, and are seen."""


class Phase(NamedTuple):
    """A stretch of the trial that is shown, between two of its marks."""

    title: str
    since: str
    until: str


PHASES = {
    "setup": Phase("Set-up, once per connection", "setup", "warmup"),
    "event": Phase("One event", "load", "settled"),
}
DIRECTIONS = {"up": "consumer to producer", "down": "producer to consumer"}
WAYS = {Kind.UP: "up", Kind.DOWN: "down"}
BETWEEN = "The link stands between the consumer and the broker, which is the producer's side of it here."
NOTE = "TCP stream bytes at the link. The warm-up events between the two phases are left out."

WIDTH, SHOWN = 70, 280
"""Characters of a part in a terminal's line, and characters of an event that are shown."""

INK, RULE = "color:#1b1f24;background:#fff", "padding-top:8px;border-top:1px solid #d8dee4"
PAGE = f"font:13px/1.45 system-ui,sans-serif;{INK};padding:12px;max-width:1150px;print-color-adjust:exact"
TABLE = "border-collapse:collapse;width:100%;margin:4px 0 12px;table-layout:fixed;border:0;font-size:13px"
CELL = f"padding:2px 8px;text-align:left;vertical-align:top;{INK};border:0;white-space:normal"
CODE = "font:12px/1.5 ui-monospace,monospace;word-break:break-all;white-space:pre-wrap;padding:1px 3px;color:#1b1f24"
RIGHT = "text-align:right"
COLUMNS = [("Bytes", f"width:44px;{RIGHT}"), ("Part", "width:112px"), ("On the wire", ""), ("Note", "width:26%")]


class Piece(NamedTuple):
    """A part, or as much of it as lies in a phase. `chunk`: the number of the relayed chunk in which it begins."""

    chunk: int
    phase: str
    direction: str
    connection: int
    ms: float
    kind: str
    raw: bytes
    note: str

    @property
    def text(self) -> str:
        """The bytes: printable ones as they are, others in hexadecimal; frame bits in hexadecimal altogether."""
        if self.kind in ("frame", "mask"):
            return self.raw.hex(" ")
        return self.raw.decode("latin-1").encode("unicode_escape").decode().replace("\\\\", "\\")


def cut(crossed: Records, tapped: bytes, phases: dict[str, int], wire: str) -> list[Piece]:
    """The pieces of all phases, in time order. crossed: the link's records of bytes; tapped: these bytes."""
    ends = list(accumulate(crossed["value"].tolist(), initial=0))
    streams: dict[tuple[int, int], list[int]] = {}
    for number, record in enumerate(crossed):
        streams.setdefault((int(record["sequence"]), int(record["kind"])), []).append(number)
    found: list[Piece] = []
    for (connection, kind), numbers in streams.items():
        chunks = [tapped[ends[number] : ends[number + 1]] for number in numbers]
        times = [int(crossed["time_ns"][number]) for number in numbers]
        lie = [_phase(at, phases) for at in times]
        for first, part in _split(chunks, lie, wire):
            if lie[first]:
                ms = (times[first] - phases[PHASES[lie[first]].since]) / 1e6
                found.append(Piece(numbers[first], lie[first], WAYS[Kind(kind)], connection, ms, *part))
    return sorted(found, key=lambda piece: piece.chunk)


def count(crossed: Records, phases: dict[str, int]) -> dict[tuple[str, str], int]:
    """The link's own count of bytes by phase and direction."""
    sums = dict.fromkeys(product(PHASES, DIRECTIONS), 0)
    for record in crossed:
        if phase := _phase(record["time_ns"], phases):
            sums[phase, WAYS[Kind(record["kind"])]] += int(record["value"])
    return sums


def _phase(at: int, phases: dict[str, int]) -> str:
    """The phase that this time lies in; empty where it is none of those shown."""
    return next((name for name, phase in PHASES.items() if phases[phase.since] <= at < phases[phase.until]), "")


def _split(chunks: list[bytes], phases: list[str], wire: str) -> Iterator[tuple[int, Part]]:
    """The parts of a stream, each with the chunk in which it begins; one that reaches into another phase is divided."""
    starts = [0, *accumulate(map(len, chunks))]
    at = 0
    for part in parts(b"".join(chunks), wire):
        begin, end = at, at + len(part.raw)
        while at < end:
            first = bisect_right(starts, at) - 1
            last = first + 1
            while starts[last] < end and phases[last] == phases[first]:
                last += 1
            until = min(end, starts[last])
            yield first, part._replace(raw=part.raw[at - begin : until - begin])
            at = until


class Anatomy:
    """What crossed the link, part by part. `parts` is a tidy DataFrame; text in a terminal, HTML in a notebook."""

    def __init__(self, trial: Trial, pieces: list[Piece], counted: dict[tuple[str, str], int]) -> None:
        self._trial, self._pieces, self._counted = trial, pieces, counted
        self.title = f"{find(trial.protocol).title}, {trial.guarantee}: one event of {trial.workload.size:,} bytes"
        self.note = f"{NOTE} {BETWEEN}" if find(trial.protocol).brokered else NOTE

    @property
    def parts(self) -> "pd.DataFrame":
        """One row for each part, in time order: phase, direction, connection, kind, note, bytes (how many), text."""
        import pandas as pd

        rows = [(p.phase, p.direction, p.connection, p.kind, p.note, len(p.raw), p.text) for p in self._pieces]
        return pd.DataFrame(rows, columns=["phase", "direction", "connection", "kind", "note", "bytes", "text"])

    def total(self, phase: str, direction: str) -> int:
        """Bytes of the parts. phase: "setup" or "event"; direction: "up" or "down" (producer to consumer)."""
        return sum(len(p.raw) for p in self._pieces if (p.phase, p.direction) == _known(phase, direction))

    def counted(self, phase: str, direction: str) -> int:
        """Bytes that the link's ledger counted, likewise."""
        return self._counted[_known(phase, direction)]

    def _turns(self, phase: str) -> Iterator[tuple[str, list[Piece]]]:
        """Who speaks, and the pieces until somebody else does."""
        mine = [piece for piece in self._pieces if piece.phase == phase]
        for (connection, direction), turn in groupby(mine, lambda piece: (piece.connection, piece.direction)):
            pieces = list(turn)
            who = f"{'->' if direction == 'down' else '<-'} {DIRECTIONS[direction]}, connection {connection}"
            yield f"{who}: {sum(len(p.raw) for p in pieces):,} bytes, at {pieces[0].ms:.1f} ms", pieces

    def _sums(self, phase: str) -> list[str]:
        return [
            f"{words}: {self.total(phase, name):,} bytes in parts, {self.counted(phase, name):,} counted by the link"
            for name, words in DIRECTIONS.items()
        ]

    def _kinds(self) -> list[tuple[str, list[int]]]:
        """The kinds there are, in the table's order, and their bytes: for each phase, up and down."""
        sums = {kind: dict.fromkeys(self._counted, 0) for kind in KINDS}
        for p in self._pieces:
            sums[p.kind][p.phase, p.direction] += len(p.raw)
        return [(kind, list(row.values())) for kind, row in sums.items() if any(row.values())]

    def text(self, colour: bool = False) -> str:
        """For a terminal; with ANSI colours if asked for."""
        lines = [self.title, self.note]
        for name, phase in PHASES.items():
            lines += ["", phase.title.upper(), *self._sums(name)]
            for who, pieces in self._turns(name):
                lines += ["", who, *(line for piece in pieces for line in _lines(piece, colour))]
        lines += [
            "",
            "BYTES BY KIND     " + "".join(f"{phase} {direction:6}".rjust(14) for phase, direction in self._counted),
        ]
        for kind, row in self._kinds():
            label = f"{KINDS[kind].label:18}"
            lines.append((_painted(label, kind) if colour else label) + "".join(f"{size:12,}  " for size in row))
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        body = [f'<h4 style="margin:0;font-weight:bold;{INK}">{self.title}</h4><div>{self.note}</div>']
        for name, phase in PHASES.items():
            rows = [_cells(COLUMNS, "th")]
            for who, pieces in self._turns(name):
                rows += [
                    f'<tr><th colspan="4" scope="colgroup" style="{CELL};{RULE}">{html.escape(who)}</th></tr>',
                    *map(_row, pieces),
                ]
            summary = f'<summary style="margin-top:10px"><b>{phase.title}</b> ({"; ".join(self._sums(name))})</summary>'
            body.append(f"<details open>{summary}{_table(rows) if len(rows) > 1 else ''}</details>")
        columns = [
            (f"{PHASES[p].title.partition(',')[0]}, {DIRECTIONS[d]}", f"width:12%;{RIGHT}") for p, d in self._counted
        ]
        rows = [_cells([("Kind", "width:16%"), *columns, ("Source", "")], "th")]
        for kind, sizes in self._kinds():
            numbers = [(f"{size:,}", RIGHT) for size in sizes]
            rows.append(_cells([(_span(KINDS[kind].label, kind), ""), *numbers, (KINDS[kind].source, "")]))
        return f'<div style="{PAGE}">{"".join(body)}<b>Legend, with bytes by kind</b>{_table(rows)}</div>'


def _known(phase: str, direction: str) -> tuple[str, str]:
    for name, table in ((phase, PHASES), (direction, DIRECTIONS)):
        if name not in table:
            raise UsageError(f"There is no {name!r} here; choose from {', '.join(table)}.")
    return phase, direction


def _shown(piece: Piece) -> str:
    """The text; that of an event or another payload shortened in the middle."""
    text = piece.text
    if piece.kind not in ("event", "payload") or len(text) <= SHOWN:
        return text
    return f"{text[: SHOWN * 2 // 3]} [...] {text[-SHOWN // 3 :]}"


def _lines(piece: Piece, colour: bool) -> Iterator[str]:
    text, size, label = _shown(piece), f"{len(piece.raw):,}", KINDS[piece.kind].label
    note = f"  # {piece.note}" if piece.note else ""
    for at in range(0, len(text), WIDTH):
        line = text[at : at + WIDTH]
        beside = note if at + WIDTH >= len(text) and len(line + note) <= WIDTH else ""
        yield f"{size:>7}  {label:16} {_painted(line, piece.kind) if colour else line}{beside}"
        size = label = ""
    if note and not beside:
        yield f"{'':26}{note[2:]}"


def _tint(kind: str) -> list[int]:
    """The kind's colour, so light that dark text on it is easy to read."""
    colour = KINDS[kind].colour
    return [round(255 - (255 - int(colour[at : at + 2], 16)) * 0.25) for at in (1, 3, 5)]


def _painted(text: str, kind: str) -> str:
    red, green, blue = (round(value / 51) for value in _tint(kind))
    return f"\x1b[38;5;16;48;5;{16 + 36 * red + 6 * green + blue}m{text}\x1b[0m"


def _span(text: str, kind: str, title: str = "") -> str:
    colours = f"background:rgb({','.join(map(str, _tint(kind)))});border-bottom:2px solid {KINDS[kind].colour}"
    return f'<span title="{html.escape(title)}" style="{CODE};{colours}">{html.escape(text)}</span>'


def _table(rows: list[str]) -> str:
    return f'<table style="{TABLE}">{"".join(rows)}</table>'


def _cells(cells: list[tuple[str, str]], tag: str = "td") -> str:
    """A row of cells, each its content and its own style."""
    scope = ' scope="col"' if tag == "th" else ""
    row = "".join(f'<{tag}{scope} style="{CELL};{style}">{words}</{tag}>' for words, style in cells)
    return f"<tr>{row}</tr>"


def _row(piece: Piece) -> str:
    kind, size = KINDS[piece.kind], f"{len(piece.raw):,}"
    span = _span(_shown(piece), piece.kind, f"{kind.label}, {size} bytes ({kind.source})")
    return _cells([(size, RIGHT), (kind.label, ""), (span, ""), (html.escape(piece.note), "")])


def anatomy(protocol: str, guarantee: str = "at-most-once", size: int = 256) -> Anatomy:
    """Delivers one event of `size` bytes to one subscriber, for real, and returns the bytes that crossed the link.

    Raises UsageError for a protocol, guarantee or size that cannot be; TrialError when the exchange fails.
    """
    row, workload = find(protocol), Workload(rate=10, duration=0.1, size=size, subscribers=1)
    trial = Trial("anatomy", Measure.LOSS, protocol, Guarantee.named(guarantee), workload, timings=TIMINGS)
    trial = replace(trial, uid=secrets.token_hex(4))
    if row.brokered or trial.durable:
        broker.external(streams=trial.recovers)
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="labkit-anatomy-") as place:
        folder = Path(place)
        with Station("anatomy", folder, stop) as station:
            record = Walk(station, trial, folder, stop, nullcontext(), tapped=True).run()
        if not record["drained"]:
            raise TrialError(f"One event of {protocol} did not come to rest in time; close other programs, try again.")
        records, tapped = read(folder / "link.ledger"), (folder / "link.ledger").with_suffix(TAP).read_bytes()
    crossed = records[are(records, Kind.UP, Kind.DOWN)]
    pieces = cut(crossed, tapped, record["phases"], "nats" if row.brokered else "http")
    return Anatomy(trial, pieces, count(crossed, record["phases"]))
