"""Live time lines, from histories written by hand and seen while they are still being made."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from histories import START, STEP, History, record
from PIL import Image
from test_charts import assert_legible, spec, words

from labkit.audit import Fate
from labkit.fates import ROW, ROWS, STUB, TALL, decided, fates
from labkit.ledger import Kind
from labkit.protocols import PROTOCOLS
from labkit.recording import Recording
from labkit.timeline import LEVELS, RASTER, SHADE, WAITING, colours
from labkit.trial import Guarantee, Measure, Timings
from labkit.workload import Workload

ONCE, LEAST = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE
REORDERED = [(name, guarantee) for name, row in PROTOCOLS.items() for guarantee in row.reorders]
ORDERED = [pair for pair in itertools.product(PROTOCOLS, Guarantee) if pair not in REORDERED]
END = START + 20 * STEP


def recording(history: History, protocol: str = "sse", guarantee: Guarantee = ONCE, **terms) -> Recording:
    """A history as it is known while its trial runs: the load has begun, nothing has ended."""
    hosts = len(history.offer.wanted)
    load = Workload(rate=100, duration=3600, subscribers=hosts)
    trial = replace(spec(Measure.LOSS, protocol, guarantee, outage=None), workload=load)
    return Recording(trial, {"load": START}, {}, history.offer, history.judge(**terms), *3 * [history.offer.due_ns[:0]])


def image(chart) -> np.ndarray:
    """The rows as they are drawn, in pixels."""
    (found,) = chart.images
    return np.asarray(found.get_array())


@pytest.mark.parametrize(("protocol", "guarantee"), ORDERED)
def test_what_a_later_event_has_overtaken_is_decided_where_order_is_kept(protocol, guarantee):
    history = History()
    history.lose(7, 0)
    history.lose(18, 1)
    history.lose(19, 1)
    found = decided(recording(history, protocol, guarantee), END)
    assert np.argwhere(~found).tolist() == [[1, 18], [1, 19]]


@pytest.mark.parametrize(("protocol", "guarantee"), REORDERED)
def test_what_is_missing_may_still_come_where_order_is_not_kept(protocol, guarantee):
    history = History()
    history.lose(7, 0)
    found = decided(recording(history, protocol, guarantee), END)
    assert np.argwhere(~found).tolist() == [[0, 7]]


@pytest.mark.parametrize(("protocol", "guarantee"), [*ORDERED, *REORDERED])
def test_what_the_producer_rejected_is_decided(protocol, guarantee):
    history = History()
    for who in (0, 1):
        history.lose(19, who)
    history.produced(Kind.REJECTED, history.due(19), 19, subscriber=1)
    assert np.argwhere(~decided(recording(history, protocol, guarantee), END)).tolist() == [[0, 19]]


@pytest.mark.parametrize("protocol", ["webhook", "resthooks"])
def test_what_was_given_up_in_a_silence_may_still_arrive_until_a_request_after_its_end(protocol):
    history = History(subscribers=1)
    for number in (2, 12):
        history.lose(number)
        history.produced(Kind.REJECTED, history.due(19), number, subscriber=0)
    history.link.append(record(Kind.CUT, history.due(10)))

    def undecided(kind, later):
        looked = recording(history, protocol, ONCE)
        looked.record["kinds"] = [kind]
        quick = replace(looked.trial, timings=Timings(request=0.05))
        return np.flatnonzero(~decided(replace(looked, trial=quick), END + later)).tolist()

    assert undecided("silent", 0) == undecided("silent", 10**12) == undecided("consumer-freeze", 0) == [12]
    assert undecided("reset", 0) == []
    history.link.append(record(Kind.HEALED, END))
    assert undecided("silent", 49_000_000) == [12]
    assert undecided("silent", 50_000_000) == []


def test_what_a_poll_for_the_latest_passed_over_is_decided():
    history = History(subscribers=1)
    for number in (3, 4, 5):
        history.lose(number)
    assert decided(recording(history, "polling", latest_only=True), END).all()
    assert "17 arrived on time, 3 lost, nobody knew" in fates(recording(history, "polling", latest_only=True), END).alt


def test_one_subscriber_says_nothing_of_another():
    history = History(subscribers=2)
    for number in range(10, 20):
        history.lose(number, 0)
    assert decided(recording(history), END).sum(axis=1).tolist() == [10, 20]


def test_the_counts_are_of_all_since_the_start_and_add_up():
    history = History()
    history.outage(START + 6 * STEP, START + 9 * STEP)
    history.arrivals[0, 7] = START + 10 * STEP
    history.consumed(Kind.RECEIVED, history.due(12) + STEP // 2, 12)
    for number in (3, 4, 5, 19):
        history.lose(number, 1)
    history.produced(Kind.REJECTED, history.due(3), 3)
    history.gap(history.due(6), 3, 5, 1)
    chart = fates(recording(history), END, seconds=0.02)
    assert (
        "Since the start 40 deliveries owed: 35 arrived on time, 1 arrived after the outage, "
        "1 lost, the producer knew, 1 lost, the consumer knew, 1 lost, nobody knew, 1 not here yet, "
        "1 arrived more than once." in chart.alt
    )
    assert {"40", "35", "lost 3, 1 not here yet", "all here"} <= set(words(chart))


def test_what_is_not_yet_here_is_never_drawn_as_lost():
    history = History(subscribers=1)
    history.link.append(record(Kind.CUT, START + 10 * STEP))
    history.consumed(Kind.DISCONNECTED, START + 10 * STEP)
    for number in range(10, 20):
        history.lose(number)
    chart = fates(recording(history, "sse", LEAST), END, "close", 0.2)
    assert "10 arrived on time, 10 not here yet." in chart.alt
    assert "broken: close (FIN)" in words(chart)
    half = image(chart)[:, RASTER // 2 + 10 : -10]
    drawn = {tuple(pixel) for pixel in half.reshape(-1, 3).tolist()}
    assert tuple(colours()[WAITING, :3]) in drawn
    assert not drawn & {tuple(colours()[LEVELS[fate], :3]) for fate in Fate}
    assert set((half[:, :, 0] == colours()[WAITING, 0]).sum(axis=0)) == {0, STUB}


def test_the_newest_is_at_the_right_and_moves_left_by_whole_pixels():
    history = History(events=1, subscribers=1)
    drawn = []
    for later in range(0, 2_000_000_000, 10_000_000):
        rows = image(fates(recording(history), START + later, seconds=4.0))
        drawn.append(np.flatnonzero((rows[ROW // 2] != 255).any(axis=1)))
    assert drawn[0].tolist() == [RASTER - 1]
    assert drawn[-1].max() == pytest.approx(RASTER / 2, abs=5)
    assert all(later[-1] <= before[-1] for before, later in itertools.pairwise(drawn))
    assert {len(each) for each in drawn[5:]} == {4}


def test_events_that_are_far_enough_apart_are_told_apart():
    history = History(subscribers=1)
    row = image(fates(recording(history), END, seconds=0.2))[ROW // 2]
    assert (np.diff((row != 255).any(axis=1).astype(int)) == 1).sum() == 19
    dense = image(fates(recording(history), END, seconds=20.0))[ROW // 2]
    assert (np.diff((dense != 255).any(axis=1).astype(int)) == 1).sum() == 1


def test_an_outage_is_shaded_while_it_lasted_and_the_open_one_named():
    history = History(subscribers=1)
    history.outage(START + 2 * STEP, START + 6 * STEP)
    history.link.append(record(Kind.CUT, START + 15 * STEP))
    chart = fates(recording(history), END, "silent", seconds=0.2)
    shade = np.array([int(SHADE[at : at + 2], 16) for at in (1, 3, 5)])
    shaded = (image(chart)[0] == shade).all(axis=1)
    wanted = np.zeros(RASTER, bool)
    wanted[RASTER * 2 // 20 : RASTER * 6 // 20] = wanted[RASTER * 15 // 20 :] = True
    assert (shaded != wanted).sum() <= 8
    assert {"outage", "silent", "broken: silent (stall)"} <= set(words(chart))
    mended = fates(recording(History(subscribers=1)), END)
    assert {"the link works"} <= set(words(mended))
    assert not {"outage", "silent"} & set(words(mended))


def test_outages_of_several_kinds_are_each_called_by_their_own():
    history = History(subscribers=1)
    for begin in (2, 8, 14):
        history.outage(START + begin * STEP, START + (begin + 3) * STEP)
    looked = recording(history)
    looked.record["kinds"] = ["silent", "reset", "close"]
    assert {"silent", "reset", "close"} <= set(words(fates(looked, END, seconds=0.2)))


def test_many_short_outages_are_all_shaded_and_their_names_do_not_collide():
    history = History(events=200, subscribers=1)
    for begin in range(10, 200, 4):
        history.outage(history.due(begin), history.due(begin + 2))
    chart = fates(recording(history), START + 200 * STEP, seconds=2.0)
    assert_legible(chart)
    assert 3 < words(chart).count("outage") < 48
    shade = int(SHADE[1:3], 16)
    assert (np.diff((image(chart)[0, :, 0] == shade).astype(int)) == 1).sum() >= 47


def test_what_was_due_before_is_out_of_the_picture_and_still_counted():
    history = History(subscribers=1)
    chart = fates(recording(history), END + 30_000_000_000)
    assert (image(chart) == 255).all()
    assert "20 arrived on time" in chart.alt


def test_more_subscribers_than_fit_are_said():
    chart = fates(recording(History(subscribers=40)), END)
    assert "The first 12 of 40 subscribers are shown, and all of them counted." in chart.alt
    assert "800 deliveries owed: 800 arrived on time" in chart.alt
    assert len(image(chart)) == ROWS * ROW
    assert "first" not in fates(recording(History(subscribers=12)), END).alt


@pytest.mark.parametrize("hosts", [1, 3, 12, 13])
def test_every_picture_of_as_many_subscribers_is_as_large_and_legible(hosts):
    calm, rough = History(subscribers=hosts), History(subscribers=hosts)
    rough.link.append(record(Kind.CUT, END - STEP))
    for who, number in itertools.product(range(hosts), range(5, 20)):
        rough.lose(number, who)
    charts = [fates(recording(calm), END), fates(recording(rough), END, "midmessage")]
    assert len({chart.bbox.bounds for chart in charts}) == 1
    for chart in charts:
        assert_legible(chart)


def test_nothing_was_offered_yet():
    history = History(events=1, subscribers=2)
    history.producer.clear()
    history.arrivals.clear()
    chart = fates(recording(history), START)
    assert "Since the start 0 deliveries owed." in chart.alt
    assert (image(chart) == 255).all()


def test_its_file_bears_the_alt_text_and_the_colours_as_they_are(tmp_path):
    chart = fates(recording(History()), END, seconds=0.2)
    (tmp_path / "live.png").write_bytes(chart.png())
    with Image.open(tmp_path / "live.png") as picture:
        assert picture.info["Description"] == chart.alt
        pixels = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}
    assert tuple(colours()[LEVELS[Fate.ON_TIME], :3]) in pixels
    assert TALL < ROW
