import base64
import io
import itertools
import json
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from labkit import charts
from labkit.captions import setting
from labkit.errors import UsageError
from labkit.intervals import summary
from labkit.ledger import MAGIC, RECORD, Kind
from labkit.looks import LOOKS
from labkit.losses import FATES
from labkit.outage import OUTAGES, Conditions, Outage
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.sheet import dodge
from labkit.trial import COMPARED, SCHEMA, Guarantee, Measure, Trial
from labkit.workload import Workload, digest

S, MS = 1_000_000_000, 1_000_000
START = 100 * S
LOAD = Workload(rate=200, duration=1.0, size=256, subscribers=5, seed=7)
OUTAGE = Outage("reset", at=0.4, lasts=0.2)


def write_ledger(path: Path, records: list[tuple[int, int, int, int, int]]) -> None:
    """Records as (time, value, sequence, subscriber, kind), with times of our own choice."""
    head = MAGIC.ljust(RECORD.size, b"\0")
    path.write_bytes(head + b"".join(RECORD.pack(t, v, n, who, 0, kind) for t, v, n, who, kind in records))


def write_trial(
    run: Path,
    trial: Trial,
    *,
    delay_ms: float = 1.0,
    late_ms: float = 0.0,
    keep: float = 1.0,
    drained: bool = True,
    copies: int = 0,
    struck_ms: float = 0.0,
    set_up: int = 500,
) -> dict[str, str]:
    """One trial in which event k reaches subscriber s after delay_ms x (1 + k mod 10), the first `keep` of them."""
    folder = run / "trials" / trial.name
    folder.mkdir(parents=True)
    trial.save(folder / "spec.json")
    schedule = trial.workload.schedule()
    end = START + 2 * S
    phases = {"setup": START - S, "warmup": START - S // 2, "load": START, "settle": end - S // 2, "settled": end}
    phases |= {"idle": end, "stop": end + S}
    record = {"digest": digest(schedule), "drained": drained, "phases": phases, "usage": {}}
    (folder / "record.json").write_text(json.dumps(record))
    sent, received = [], []
    for number, item in enumerate(schedule):
        due = START + item.due_ns + int(late_ms * MS)
        sent += [(due, len(item.raw), item.sequence, 2**16 - 1, kind) for kind in (Kind.SENT, Kind.ACCEPTED)]
        for who in range(trial.workload.subscribers):
            at = due + int(delay_ms * (1 + number % 10) * MS)
            if number < keep * len(schedule):
                received.append((at, zlib.crc32(item.raw), item.sequence, who, Kind.RECEIVED))
            if number < copies and who == 0:
                received.append((at + MS, zlib.crc32(item.raw), item.sequence, who, Kind.RECEIVED))
    write_ledger(folder / "producer.ledger", sent)
    write_ledger(folder / "consumer.ledger", sorted(received))
    for later in ("producer-2", "consumer-2", "spared"):
        write_ledger(folder / f"{later}.ledger", [])
    link = [
        (START - S, 300, 0, 0, Kind.UP),
        (START - S, set_up, 0, 0, Kind.DOWN),
        (START + MS, 1000 * 10, 0, 0, Kind.UP),
    ]
    link += [(START + MS, 1000 * 300, 0, 0, Kind.DOWN), (end + MS, 90, 0, 0, Kind.DOWN)]
    if trial.outage:
        cut = START + int(trial.outage.at * S + struck_ms * MS)
        link += [(cut, 0, 0, 0, Kind.CUT), (cut + int(trial.outage.lasts * S), 0, 0, 0, Kind.HEALED)]
    if trial.linked:
        write_ledger(folder / "link.ledger", sorted(link))
    return {"digest": record["digest"]}


def spec(
    measure: Measure,
    protocol: str,
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE,
    repeat: int = 1,
    outage: Outage | None = OUTAGE,
) -> Trial:
    outage = outage if measure is Measure.LOSS else None
    name = f"{measure}-{protocol}-{guarantee}-{f'{outage.kind}-' if outage else ''}{repeat}"
    return Trial(name, measure, protocol, guarantee, LOAD, outage, repeat)


def write_run(folder: Path, trials: dict[Trial, dict], errors: dict[str, str] | None = None) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    entries: dict[str, dict] = {trial.name: write_trial(folder, trial, **how) for trial, how in trials.items()}
    entries |= {name: {"error": reason} for name, reason in (errors or {}).items()}
    (folder / "manifest.json").write_text(json.dumps({"schema": SCHEMA, "trials": entries}))
    return Run(folder)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every measure, protocol and guarantee; latencies that are the same but for polling, which gets a part."""
    trials = {}
    for measure, (number, protocol), guarantee in itertools.product(COMPARED, enumerate(PROTOCOLS), Guarantee):
        partial = protocol == "polling" and guarantee is Guarantee.AT_MOST_ONCE
        trials[spec(measure, protocol, guarantee)] = {
            "delay_ms": 1 + 0.01 * number,
            "keep": 0.02 if partial else 1.0,
            "copies": 3 if protocol == "webhook" else 0,
        }
    return write_run(tmp_path_factory.mktemp("runs") / "full", trials)


def assert_legible(chart: charts.Chart) -> None:
    """No text lies over another, and none reaches beyond the picture."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(chart)]
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= chart.bbox.width, text
        assert box.y0 >= 0, text
        assert box.y1 <= chart.bbox.height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, other)


def texts(chart: charts.Chart) -> list[Text]:
    chart.canvas = FigureCanvasAgg(chart)
    chart.canvas.draw()
    shown = [text for text in chart.findobj(Text) if text.get_text().strip() and text.get_visible()]
    # Tick labels beyond the limits of their axis are there, but never drawn.
    beyond = [text for axes in chart.axes for text in _undrawn(axes)]
    return [text for text in shown if not any(text is other for other in beyond)]


def _undrawn(axes: Axes) -> list[Text]:
    across, up = axes.bbox.padded(1).intervalx, axes.bbox.padded(1).intervaly
    return [
        *(text for text in axes.get_xticklabels() if not across[0] <= _middle(text)[0] <= across[1]),
        *(text for text in axes.get_yticklabels() if not up[0] <= _middle(text)[1] <= up[1]),
    ]


def _middle(text: Text) -> tuple[float, float]:
    box = text.get_window_extent()
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def words(chart: charts.Chart) -> list[str]:
    return [text.get_text() for text in texts(chart)]


DRAWS = pytest.mark.parametrize("draw", [charts.latency, charts.bandwidth, charts.loss, charts.matrix, charts.timeline])
OF_LOSS = (charts.loss, charts.matrix, charts.timeline)


def test_latency_tells_percentiles_parts_and_setting(full: Run) -> None:
    alt = charts.latency(full).alt
    assert "WebSocket, p50 5.50, p99 10.00 ms" in alt
    assert re.search(r"Polling, p50 2\.6. ms, too few for p99, only 2.0 % arrived", alt)
    for part in ("200 events/s of 256 bytes for 1 s to 5 subscribers", "constant arrivals, seed 7", "directly"):
        assert part in alt
    assert "heartbeat 1 s, poll every 0.25 s, long poll held 2 s" in alt
    assert "lower is better" in alt


def test_bandwidth_tells_bytes_of_both_directions_and_all_phases(full: Run) -> None:
    alt = charts.bandwidth(full).alt
    assert "WebSocket 256 + 44 to the consumer, 10 to the producer, 160 bytes and 18 bytes/s per subscriber" in alt
    assert "only 2.0 % arrived" in alt
    assert "no IP/TCP headers, no retransmissions" in " ".join(words(charts.bandwidth(full)))


def test_loss_tells_fates_verdict_duplicates_and_outage(full: Run) -> None:
    chart = charts.loss(full)
    assert "WebSocket complete: 0 % lost, 0 of 1,000 (995 arrived on time, 5 arrived after the outage)" in chart.alt
    assert "Polling lossy: 98.0 % lost, 980 of 1,000 (20 arrived on time, 980 lost, nobody knew)" in chart.alt
    assert "Webhook complete: 0 % lost, 0 of 1,000, +3 duplicates" in chart.alt
    assert "Outage 0.4 s into the load, for 0.2 s: reset (" in chart.alt
    assert {"lossy: 98.0 % lost", "980 of 1,000", "+3 duplicates", "lost, nobody knew"} <= set(words(chart))


def test_files_are_the_same_for_the_same_run(full: Run, tmp_path: Path) -> None:
    once, again = charts.save(full, tmp_path / "once"), charts.save(Run(full.folder), tmp_path / "again")
    assert [path.name for path in once] == [
        f"{n}.{kind}" for n in (*COMPARED, "matrix", "timeline") for kind in ("png", "svg")
    ]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_files_carry_their_alt_text(full: Run, tmp_path: Path) -> None:
    chart = charts.latency(full)
    png, svg, *_ = charts.save(full, tmp_path)
    with Image.open(png) as image:
        assert image.info["Description"] == chart.alt
        assert 1000 <= image.width <= 1200
    assert png.stat().st_size < 120_000
    assert chart.alt in svg.read_text(encoding="utf-8")
    assert "<dc:date>" not in svg.read_text(encoding="utf-8")


def test_a_notebook_shows_it_once_also_where_widgets_have_every_figure_drawn(full: Run, monkeypatch) -> None:
    shown: list[dict[str, str]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    formatter = DisplayFormatter()
    formatter.formatters["image/png"].for_type(Figure, lambda figure: b"a second picture")
    assert formatter.format(charts.latency(full)) == ({}, {})
    assert [set(data) for data in shown] == [{"text/html", "text/plain"}]
    assert shown[0]["text/plain"] == charts.latency(full).alt


@DRAWS
def test_a_notebook_shows_one_picture_with_escaped_alt_text(full: Run, draw) -> None:
    chart = draw(full)
    chart.alt += ' "<&'
    html = chart._repr_html_()
    assert html.count("<img") == 1
    assert html.endswith('&quot;&lt;&amp;"></figure>')
    data = re.search(r"base64,([^\"]+)\"", html)
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as image:
        assert image.format == "PNG"


@DRAWS
def test_nothing_overlaps_and_nothing_is_clipped(full: Run, draw) -> None:
    assert_legible(draw(full))


@DRAWS
def test_a_measure_without_trials_says_so(tmp_path: Path, draw) -> None:
    run = write_run(tmp_path, {}, {"loss-sse-at-least-once-1": "broke"})
    chart = draw(run)
    measure = "loss" if draw in OF_LOSS else draw.__name__
    assert f"This run has no finished {measure} trial, so there is nothing to draw." in chart.alt
    assert not chart.axes
    assert ("loss-sse-at-least-once-1" in chart.alt) == (draw in OF_LOSS)


@DRAWS
def test_trials_in_which_nothing_arrived_are_drawn(tmp_path: Path, draw) -> None:
    run = write_run(tmp_path, {spec(measure, "sse"): {"keep": 0} for measure in COMPARED})
    said = {charts.timeline: "lost 1,000 of 1,000", charts.loss: "100 % lost", charts.matrix: "100 % lost"}
    assert said.get(draw, "nothing arrived") in draw(run).alt
    assert draw(run).png()


def test_saturated_trials_are_marked_in_label_and_line(tmp_path: Path) -> None:
    run = write_run(tmp_path, {spec(Measure.LATENCY, "sse"): {"late_ms": 9.0}, spec(Measure.LATENCY, "websocket"): {}})
    chart = charts.latency(run)
    assert words(chart).count("⚠ generator saturated") == 1
    assert "Server-Sent Events, p50 14.50, p99 19.00 ms, ⚠ generator saturated" in chart.alt
    faces = {line.get_marker(): line.get_markerfacecolor() for line in chart.axes[0].lines}
    assert faces[LOOKS["sse"].marker] == "white"
    assert faces[LOOKS["websocket"].marker] == LOOKS["websocket"].colour


@DRAWS
def test_inconclusive_trials_are_marked(tmp_path: Path, draw) -> None:
    run = write_run(tmp_path, {spec(m, "sse"): {"drained": False, "keep": 0.9} for m in COMPARED})
    chart = draw(run)
    assert "inconclusive" in chart.alt
    assert any("inconclusive" in text for text in words(chart))
    if draw is charts.loss:
        assert ".." in [bar.get_hatch() for bar in chart.findobj(lambda artist: hasattr(artist, "get_hatch"))]
        assert "10.0 % missing" in words(chart)


def test_the_setting_says_how_many_repeats_there_are(tmp_path: Path) -> None:
    trials = {spec(m, "sse", repeat=n): {"delay_ms": n, "keep": 1 / n} for m in COMPARED for n in (1, 2)}
    run = write_run(tmp_path, trials)
    assert "2 repeats (thin lines: each alone)" in charts.latency(run).alt
    assert "2 repeats." in charts.loss(run).alt
    assert "only 75.0 % arrived" in charts.bandwidth(run).alt
    assert "lossy: 25.0 % lost (0 to 50.0 %), 500 of 2,000" in charts.loss(run).alt


def test_of_repeats_the_bars_are_those_in_the_middle(tmp_path: Path) -> None:
    trials = {
        spec(Measure.BANDWIDTH, "sse", repeat=n): {"keep": keep, "set_up": 1000 * n}
        for n, keep in enumerate((1.0, 0.5, 0.1), 1)
    }
    chart = charts.bandwidth(write_run(tmp_path, trials))
    assert {"256 + 344", "20", "460"} <= set(words(chart))  # 300,000 bytes by 500 of 1,000 events; 2,300 by 5
    assert "Of several repeats that in the middle is shown." in " ".join(words(chart))


def test_of_repeats_the_share_lost_and_the_duplicates_are_their_medians_with_bounds(tmp_path: Path) -> None:
    kept = {1: 0.5, 2: 0.9, 3: 0.8}
    trials = {spec(Measure.LOSS, "sse", repeat=n): {"keep": keep} for n, keep in kept.items()}
    trials |= {spec(Measure.LOSS, "webhook", repeat=n): {"copies": copies} for n, copies in ((1, 0), (2, 7), (3, 0))}
    trials |= {spec(Measure.LOSS, "resthooks", repeat=n): {"copies": copies} for n, copies in ((1, 4), (2, 7), (3, 0))}
    run = write_run(tmp_path, trials)
    row = summary(run).query("protocol == 'sse' and figure == 'lost_percent'").iloc[0]
    assert (row["median"], row["low"], row["high"]) == pytest.approx((20, 10, 50))
    bars, cells = charts.loss(run), charts.matrix(run)
    assert {"lossy: 20.0 % lost", "(10.0 to 50.0 %)", "800 of 3,000"} <= set(words(bars))
    assert {"+0 to 7 duplicates", "+4 duplicates"} <= set(words(bars))
    assert {"20.0 %", "(10–50)", "+0–7", "+4"} <= set(words(cells))
    assert "20.0 % lost (10.0 to 50.0 %)" in cells.alt
    for chart in (bars, cells):
        assert_legible(chart)
        assert "the median of the repeats, and in brackets" in " ".join(words(chart))


def test_what_one_repeat_lost_is_not_white_though_the_others_lost_nothing(tmp_path: Path) -> None:
    trials = {spec(Measure.LOSS, "sse", repeat=n): {"keep": keep} for n, keep in enumerate((1.0, 1.0, 0.7), 1)}
    chart = charts.matrix(write_run(tmp_path / "some", trials))
    whole = charts.matrix(write_run(tmp_path / "none", {trial: {} for trial in trials}))
    some, none = (
        next(to_hex(patch.get_facecolor()) for patch in axes.patches)
        for axes in (each.axes[0] for each in (chart, whole))
    )
    assert none == "#ffffff"
    assert some == "#d6e6f4"
    assert {"0 %", "(0–30)"} <= set(words(chart))


def test_the_time_line_shows_of_repeats_that_in_the_middle(tmp_path: Path) -> None:
    trials = {spec(Measure.LOSS, "sse", repeat=n): {"keep": keep} for n, keep in enumerate((1.0, 0.5, 0.8), 1)}
    trials |= {spec(Measure.LOSS, "polling", repeat=n): {"keep": keep} for n, keep in enumerate((0.9, 0.1, 0.0), 1)}
    chart = charts.timeline(write_run(tmp_path, trials))
    assert {"lost 200 of 1,000", "lost 900 of 1,000"} <= set(words(chart))
    assert "Of 3 repeats of each that in the middle is shown, by its share lost." in " ".join(words(chart))
    assert "repeats." not in chart.alt.split("Outage")[0]


def test_a_bar_far_beyond_the_others_is_cut_and_keeps_its_number(tmp_path: Path) -> None:
    trials = {spec(Measure.BANDWIDTH, p): {} for p in ("websocket", "sse", "pubsub")}
    trials[spec(Measure.BANDWIDTH, "polling")] = {"keep": 0.005}
    chart = charts.bandwidth(write_run(tmp_path, trials))
    assert "256 + 59,744" in words(chart)
    assert chart.axes[0].get_xlim()[1] < 2000


def test_a_protocol_looks_like_no_other(full: Run) -> None:
    assert list(LOOKS) == list(PROTOCOLS)
    looks = LOOKS.values()
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == len(PROTOCOLS)
    assert not {look.colour for look in looks} & {colour for _, colour, _ in FATES.values()}
    broken = {name: look.dash for name, look in LOOKS.items() if look.dash != "-"}
    assert set(broken) == {name for name, row in PROTOCOLS.items() if row.baseline}
    assert len(set(broken.values())) == len(broken)
    assert {name for name, look in LOOKS.items() if look.hatch} == set(broken)
    drawn = {line.get_color() for axes in charts.latency(full).axes for line in axes.lines}
    assert {look.colour for look in looks} <= drawn


def test_labels_move_no_further_than_they_must() -> None:
    assert dodge([10, 50], [20, 20], 0, 100) == [10, 50]
    assert dodge([50, 50, 50], [20, 20, 20], 0, 100) == [30, 50, 70]
    assert dodge([99, 98], [20, 20], 0, 100) == [90, 70]


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (replace(LOAD, arrival="poisson", sizes="lognormal", topics=2), "256 bytes (median, lognormal) on 2 topics"),
        (replace(LOAD, trace="data/log.csv", speed=10), "Trace log.csv at 10 times its own speed, to 5 subscribers"),
        (replace(LOAD, subscribers=1), "to 1 subscriber, constant"),
    ],
)
def test_the_setting_comes_from_the_workload(load: Workload, said: str) -> None:
    assert said in setting([replace(spec(Measure.LATENCY, "sse"), workload=load)])[0]


def test_the_setting_names_link_timings_and_every_outage() -> None:
    cut = replace(OUTAGE, share=0.5, repeat=2)
    slow = {"conditions": Conditions(0.02, 0.005, 1_000_000)}
    kinds = list(OUTAGES)[:3]
    trials = [replace(spec(Measure.LOSS, "webhook", outage=replace(cut, kind=kind)), **slow) for kind in kinds]
    _, way, *outages = setting(trials)
    assert "through the link (20 ms of delay each way, up to 5 ms of jitter, 1,000,000 bytes/s), heartbeat 1 s" in way
    assert "webhook retries 36,000 times faster than Standard Webhooks' example schedule" in way
    assert outages == [
        "3 kinds of outage, each 0.4 s into the load, for 0.2 s, 2 times with as long a pause between, "
        "to the first 3 of 5 subscribers: close (FIN), reset (RST), silent (stall); "
        "too short for a heartbeat to notice: silent"
    ]
    assert "nobody is told" in setting(trials[2:])[2]
    assert "webhook" not in setting([spec(Measure.LOSS, "webhook", Guarantee.AT_MOST_ONCE)])[1]
    assert "webhook" not in setting([spec(Measure.LOSS, "sse")])[1]


def test_three_guarantees_take_two_panels_a_row(full: Run) -> None:
    for chart in (charts.latency(full), charts.loss(full)):
        places = [axes.get_position() for axes in chart.axes if axes.get_xlabel()]
        assert len({round(place.x0, 3) for place in places}) == 2
        assert len({round(place.y0, 3) for place in places}) >= 2


def test_no_pyplot_and_no_settings_changed(full: Run, tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; settings = [key for key in matplotlib.rcParams if key != 'backend']\n"
        "before = [matplotlib.rcParams[key] for key in settings]\n"
        "from pathlib import Path; from labkit import charts; from labkit.results import Run\n"
        f"charts.save(Run({str(full.folder)!r}), Path({str(tmp_path)!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert [matplotlib.rcParams[key] for key in settings] == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DRAWN = [charts.latency, charts.bandwidth, charts.loss, charts.matrix, charts.timeline, charts.duplex]


@pytest.mark.parametrize(
    "draw", [*DRAWN, charts.sweep, charts.sequence, charts.overlay, lambda run: charts.save(run, Path("nowhere"))]
)
def test_every_chart_takes_a_run_or_its_folder_and_names_what_is_neither(draw, tmp_path) -> None:
    for nothing in (None, 3):
        with pytest.raises(UsageError, match="is no run; make one first"):
            draw(nothing)
    with pytest.raises(UsageError, match="is not a run folder"):
        draw(tmp_path)


def test_a_chart_of_a_folder_is_that_of_its_run(full) -> None:
    assert charts.loss(full.folder).png() == charts.loss(full).png()


def repeats(measures: tuple[Measure, ...], protocols: tuple[str, ...], **how: list) -> dict[Trial, dict]:
    """A trial for each value in turn of what the keywords list."""
    count = max(map(len, how.values()))
    return {
        spec(measure, protocol, repeat=n + 1): {name: values[n % len(values)] for name, values in how.items()}
        for measure in measures
        for protocol in protocols
        for n in range(count)
    }


def test_of_repeats_the_label_has_the_medians_with_their_bounds(tmp_path: Path) -> None:
    # Event k arrives after delay x (1 + k mod 10): p50 is 5.5 times the delay, p99 10 times.
    run = write_run(tmp_path, repeats((Measure.LATENCY,), ("sse",), delay_ms=[4, 1, 3, 2, 10]))
    chart = charts.latency(run)
    assert {"p50 16.50 ms (5.50 to 55.00)", "p99 30.00 ms (10.00 to 100)"} <= set(words(chart))
    assert "Server-Sent Events, p50 16.50 ms (5.50 to 55.00), p99 30.00 ms (10.00 to 100)." in chart.alt
    assert "5 repeats (thin lines: each alone)" in chart.alt
    note = " ".join(words(chart))
    assert "Curves: all repeats pooled" in note
    assert "bootstrap has 95" in note


def test_the_bounds_are_those_of_the_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path, repeats((Measure.LATENCY,), ("sse", "polling"), delay_ms=[4, 1, 3, 2, 9, 7, 5]))
    shown, rows = words(charts.latency(run)), summary(run)
    for row in rows[rows["figure"] != "p90_ms"].itertuples():
        assert row.high < 100
        assert f"{row.figure[:3]} {row.median:.2f} ms ({row.low:.2f} to {row.high:.2f})" in shown


def test_one_trial_alone_has_no_bounds_and_the_chart_no_word_of_them(tmp_path: Path) -> None:
    chart = charts.latency(write_run(tmp_path, {spec(Measure.LATENCY, "sse"): {}}))
    assert "p50 5.50 · p99 10.00 ms" in words(chart)
    assert "Server-Sent Events, p50 5.50, p99 10.00 ms." in chart.alt
    assert "bootstrap" not in " ".join(words(chart))


def test_repeats_that_are_all_the_same_have_bounds_that_are_the_same(tmp_path: Path) -> None:
    chart = charts.latency(write_run(tmp_path, repeats((Measure.LATENCY,), ("sse",), delay_ms=[2, 2])))
    assert {"p50 11.00 ms (11.00 to 11.00)", "p99 20.00 ms (20.00 to 20.00)"} <= set(words(chart))


def test_a_repeat_in_which_nothing_arrived_leaves_the_median_of_the_others_without_bounds(tmp_path: Path) -> None:
    run = write_run(tmp_path, repeats((Measure.LATENCY,), ("sse",), delay_ms=[1, 2, 3], keep=[1.0, 1.0, 0.0]))
    chart = charts.latency(run)
    assert {"p50 8.25 ms", "p99 15.00 ms"} <= set(words(chart))
    assert "Server-Sent Events, p50 8.25 ms, p99 15.00 ms, only 66.7 % arrived." in chart.alt


def test_a_repeat_with_too_few_for_the_percentile_leaves_bounds_of_the_median_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, repeats((Measure.LATENCY,), ("sse",), delay_ms=[1, 2, 3], keep=[1.0, 1.0, 0.9]))
    chart = charts.latency(run)
    assert {"p50 11.00 ms (5.50 to 16.50)", "p99 15.00 ms"} <= set(words(chart))


def test_repeats_with_enough_for_the_median_alone_say_that_they_are_too_few_for_the_percentile(tmp_path: Path) -> None:
    run = write_run(tmp_path, repeats((Measure.LATENCY,), ("sse",), delay_ms=[1, 2, 3], keep=[0.1]))
    chart = charts.latency(run)
    assert {"p50 11.00 ms (5.50 to 16.50)", "too few in each repeat for p99"} <= set(words(chart))
    assert (
        "Server-Sent Events, p50 11.00 ms (5.50 to 16.50), too few in each repeat for p99, only 10.0 % arrived."
        in chart.alt
    )


def test_repeats_of_which_none_has_enough_say_so_though_all_together_would(tmp_path: Path) -> None:
    run = write_run(tmp_path, repeats((Measure.LATENCY,), ("sse",), delay_ms=[1, 2, 3], keep=[0.01]))
    chart = charts.latency(run)
    assert "too few in each repeat for p50" in words(chart)
    assert "Server-Sent Events, too few in each repeat for p50, only 1.0 % arrived." in chart.alt


def test_times_of_seconds_are_written_without_decimals(tmp_path: Path) -> None:
    run = write_run(tmp_path, repeats((Measure.LATENCY,), ("sse",), delay_ms=[190, 186, 194]))
    assert {"p50 1,045 ms (1,023 to 1,067)", "p99 1,900 ms (1,860 to 1,940)"} <= set(words(charts.latency(run)))
    alone = write_run(tmp_path / "alone", {spec(Measure.LATENCY, "sse"): {"delay_ms": 190}})
    assert "p50 1,045 · p99 1,900 ms" in words(charts.latency(alone))


@pytest.fixture(scope="module", params=[2, 3])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five repeats of everything with two or three guarantees, the latencies close together; some saturated, or few."""
    trials = {}
    for measure, (number, protocol), guarantee, repeat in itertools.product(
        COMPARED, enumerate(PROTOCOLS), list(Guarantee)[: request.param], range(1, 6)
    ):
        trials[spec(measure, protocol, guarantee, repeat)] = {
            "delay_ms": (1 + 0.05 * number) * (1 + 0.1 * repeat) * (100 if protocol == "polling" else 1),
            "late_ms": 9.0 if protocol == "webhook" and repeat == 2 else 0.0,
            "keep": 0.9 if protocol in ("polling", "sse") else 1.0,
            "copies": repeat if protocol == "pubsub" else 0,
            "drained": not (protocol == "sse" and repeat == 3),
        }
    return write_run(tmp_path_factory.mktemp("runs") / "crowded", trials)


@DRAWS
def test_five_repeats_of_everything_are_legible(crowded: Run, draw) -> None:
    chart = draw(crowded)
    assert_legible(chart)
    assert min(text.get_fontsize() for text in texts(chart)) >= 8
    assert "5 repeats" in chart.alt + " ".join(words(chart))
    assert "nan" not in chart.alt + " ".join(words(chart))


def test_every_protocol_of_five_repeats_has_its_bounds_in_its_label(crowded: Run) -> None:
    shown = [text for text in texts(charts.latency(crowded)) if re.match(r"p\d\d ", text.get_text())]
    guarantees = {recording.trial.guarantee for recording in crowded.recordings}
    assert len([text for text in shown if text.get_text().startswith("p50")]) == len(PROTOCOLS) * len(guarantees)
    for text in shown:
        assert re.fullmatch(r"p\d\d [\d.,]+ ms \([\d.,]+ to [\d.,]+\)", text.get_text())
        assert text.get_fontweight() == "normal"


def test_a_row_of_panels_grows_with_what_its_labels_have_to_say(tmp_path: Path) -> None:
    """Every protocol of one guarantee is saturated, lacks something and has not come to an end."""
    trials = {
        spec(Measure.LATENCY, protocol, guarantee, repeat): {"late_ms": 9.0, "keep": 0.9, "drained": False}
        if guarantee is Guarantee.AT_LEAST_ONCE
        else {}
        for protocol, guarantee, repeat in itertools.product(PROTOCOLS, Guarantee, (1, 2))
    }
    chart = charts.latency(write_run(tmp_path, trials))
    assert_legible(chart)
    heights = [axes.bbox.height for axes in chart.axes if axes.get_xlabel()]
    assert len(heights) == 3
    assert heights[0] == pytest.approx(heights[1])
    assert heights[0] > heights[2]
