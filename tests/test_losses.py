import itertools
import re
from dataclasses import replace

import pytest
from test_charts import OUTAGE, spec, texts, words, write_run

from labkit import charts
from labkit.errors import UsageError
from labkit.losses import STEPS
from labkit.outage import OUTAGES
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee, Measure

KINDS = [kind for kind in OUTAGES if kind != "broker-crash"]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Every protocol, guarantee and kind of outage; each protocol loses another share, and webhooks come twice."""
    trials = {}
    for (number, protocol), guarantee, kind in itertools.product(enumerate(PROTOCOLS), Guarantee, OUTAGES):
        if kind in KINDS or PROTOCOLS[protocol].brokered:
            trial = spec(Measure.LOSS, protocol, guarantee, outage=replace(OUTAGE, kind=kind))
            lossy = guarantee is Guarantee.AT_MOST_ONCE
            trials[trial] = {"keep": 1 - 0.1 * number if lossy else 1, "copies": 3 if protocol == "webhook" else 0}
    trials[spec(Measure.LOSS, "sse", outage=replace(OUTAGE, kind="refuse"))]["drained"] = False
    return write_run(tmp_path_factory.mktemp("runs") / "broken", trials, {"loss-sse-durable-broker-crash-1": "broke"})


def test_a_run_of_everything_stays_light(broken):
    assert len(charts.timeline(broken).svg()) < 1_000_000
    assert len(charts.matrix(broken).svg()) < 1_000_000
    images = [image for axes in charts.timeline(broken).axes for image in axes.images]
    assert len(images) == len(PROTOCOLS) * len(Guarantee)


@pytest.mark.parametrize("draw", [charts.loss, charts.matrix, charts.timeline])
def test_nothing_overlaps_is_clipped_or_small(broken, draw):
    chart = draw(broken)
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(chart)]
    assert min(text.get_fontsize() for text in texts(chart)) >= 8
    for text, box in boxes:
        assert 0 <= box.x0 < box.x1 <= chart.bbox.width, text
        assert 0 <= box.y0 < box.y1 <= chart.bbox.height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, other)


def test_the_matrix_says_what_the_frame_says(broken):
    alt, frame = charts.matrix(broken).alt, broken.loss
    for row in frame[(frame["lost"] > 0) & (frame["verdict"] == "lossy")].itertuples():
        block = re.search(rf"{row.guarantee.capitalize()}, {row.outage}: (.*?)\.(?= [AD]|$)", alt)[1]
        share = f"{100 * row.lost / row.owed:.1f}".removesuffix(".0") if row.lost == row.owed else None
        share = share or f"{100 * row.lost / row.owed:.1f}"
        assert f"{PROTOCOLS[row.protocol].title} {share} % lost" in block, row
        assert not row.silent or f"{row.silent:,} lost, nobody knew" in block


def test_the_matrix_tells_zero_inconclusive_failed_and_impossible_apart(broken):
    chart = charts.matrix(broken)
    assert {"0 %", "inconclusive", "0 % missing", "—  has no broker  —", "—  failed  —", "+3"} <= set(words(chart))
    assert words(chart).count("—  has no broker  —") == 3 * (len(PROTOCOLS) - 1) - 1
    assert "Server-Sent Events inconclusive, 0 % missing" in chart.alt
    assert STEPS[0][:2] == (0, "0 %")
    assert len({colour for *_, colour in STEPS}) == len(STEPS)


def test_the_timeline_says_what_the_frame_says(broken):
    alt, frame = charts.timeline(broken, "at-most-once", "silent").alt, broken.loss
    assert "silent (" in alt
    assert "At-least-once" not in alt
    for row in frame[(frame["outage"] == "silent") & (frame["guarantee"] == "at-most-once")].itertuples():
        assert f"{PROTOCOLS[row.protocol].title} lost {row.lost:,} of {row.owed:,}" in alt


def test_one_kind_is_shown_and_the_matrix_named(broken):
    assert "close alone: the matrix shows every kind of outage in this run (9)" in " ".join(words(charts.loss(broken)))
    assert "when the consumer broke" in charts.loss(broken, "consumer-crash").alt
    alone = charts.loss(broken, "broker-crash").alt
    assert "Pub-Sub" in alone
    assert "WebSocket" not in alone


def test_what_the_run_does_not_have_is_refused_in_a_sentence(tmp_path):
    run = write_run(tmp_path, {spec(Measure.LOSS, "sse"): {}})
    for call in (lambda: charts.loss(run, "close"), lambda: charts.timeline(run, outage="close")):
        with pytest.raises(UsageError, match="no outage 'close'; choose from reset"):
            call()
    with pytest.raises(UsageError, match="no loss trial with durable; choose from at-least-once"):
        charts.timeline(run, "durable")
