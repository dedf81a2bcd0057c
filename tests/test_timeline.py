"""The time line: each mark where and when its event was due, in the colour of its fate, and none hidden."""

from dataclasses import replace

import numpy as np
import pytest
from histories import START, STEP, History
from PIL import Image
from test_charts import LOAD, OUTAGE, spec, words, write_run

from labkit import charts
from labkit.audit import Fate
from labkit.ledger import Kind
from labkit.recording import Recording
from labkit.timeline import AGAIN, BLANK, LEVELS, colours, levels
from labkit.trial import Measure
from labkit.workload import Workload


def recording(history, subscribers=2, events=20, **terms):
    """A hand-written history as the charts get it; events are due every 10 ms."""
    trial = replace(
        spec(Measure.LOSS, "sse"), workload=Workload(rate=100, duration=events / 100, subscribers=subscribers)
    )
    return Recording(trial, {"load": START}, {}, history.offer, history.judge(**terms), *3 * [history.offer.due_ns[:0]])


def test_each_fate_is_drawn_where_and_when_its_event_was_due():
    history = History()
    history.outage(START + 6 * STEP, START + 9 * STEP)
    history.arrivals[0, 7] = START + 10 * STEP
    history.consumed(Kind.RECEIVED, history.due(12) + STEP // 2, 12)
    for number in (3, 4, 5):
        history.lose(number, 1)
    history.produced(Kind.REJECTED, history.due(3), 3)
    history.gap(history.due(6), 3, 5, 1)
    picture = levels(recording(history), width=20)
    expected = np.full((2, 20), LEVELS[Fate.ON_TIME])
    expected[0, 7], expected[0, 12] = LEVELS[Fate.LATE], AGAIN
    expected[1, 3:6] = [LEVELS[fate] for fate in (Fate.REJECTED, Fate.GAP_SEEN, Fate.SILENT)]
    assert picture.tolist() == expected.tolist()


def test_a_single_loss_is_never_hidden_by_what_shares_its_pixel():
    history = History(events=2000, subscribers=200)
    history.lose(1234, 77)
    picture = levels(recording(history, subscribers=200, events=2000), width=100, rows=10)
    assert picture.shape == (10, 100)
    assert np.argwhere(picture == LEVELS[Fate.SILENT]).tolist() == [[3, 61]]
    assert set(picture.ravel()) == {LEVELS[Fate.ON_TIME], LEVELS[Fate.SILENT]}


def test_what_was_never_offered_stays_blank_and_marks_keep_apart():
    history = History(wanted=np.arange(20)[None, :].repeat(2, 0) % 2 == np.arange(2)[:, None])
    picture = levels(recording(history), width=200)
    assert picture[0, :20].tolist() == [LEVELS[Fate.ON_TIME]] * 4 + [BLANK] * 16
    assert picture[1, :20].tolist() == [BLANK] * 10 + [LEVELS[Fate.ON_TIME]] * 4 + [BLANK] * 6
    assert colours()[BLANK, 3] == 0


def test_the_picture_shows_a_single_loss_in_its_own_colour(tmp_path):
    run = write_run(tmp_path, {spec(Measure.LOSS, "sse"): {"keep": 0.995}})
    (tmp_path / "chart.png").write_bytes(charts.timeline(run).png())
    with Image.open(tmp_path / "chart.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    lost = np.abs(pixels - colours()[LEVELS[Fate.SILENT], :3]).max(axis=2) < 16
    assert lost[:, 900:].any()


def test_only_the_struck_rows_are_shaded(tmp_path):
    run = write_run(tmp_path, {spec(Measure.LOSS, "sse", outage=replace(OUTAGE, share=0.4)): {}})
    chart = charts.timeline(run)
    axes = next(axes for axes in chart.axes if axes.images)
    (shade,), (image,) = axes.patches, axes.images
    assert shade.get_xy()[:, 0].min() == pytest.approx(OUTAGE.at)
    assert shade.get_xy()[:, 0].max() == pytest.approx(OUTAGE.at + OUTAGE.lasts)
    bottom, top = image.get_extent()[2:]
    assert (shade.get_xy()[:, 1].max() - top) / (bottom - top) == pytest.approx(2 / LOAD.subscribers)
    assert "outage: reset (RST), to 2 of 5 subscribers" in words(chart)
