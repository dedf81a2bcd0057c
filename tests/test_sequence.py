import itertools
import re
import zlib
from dataclasses import replace

import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from test_charts import MS, START, spec, texts, words, write_ledger, write_run

from labkit import charts
from labkit.audit import Fate
from labkit.errors import UsageError
from labkit.ledger import EVERYONE, Kind
from labkit.looks import LOOKS
from labkit.losses import FATES
from labkit.outage import OUTAGES, Outage
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.sequence import MOST
from labkit.story import story
from labkit.trial import Guarantee, Measure
from labkit.workload import Workload

CUT, HEALED = START + 350 * MS, START + 650 * MS
ONCE, LEAST = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE


def at(event):
    """When an event was sent: one every 100 ms."""
    return START + event * 100 * MS + MS


def write(
    folder,
    protocol,
    guarantees=(ONCE,),
    *,
    lost=(),
    late=(),
    producer=(),
    consumer=(),
    link=(),
    kind="close",
    subscribers=1,
    share=1.0,
    rate=10,
):
    """A run of ten events with ids from 10 on; each arrives after 1 ms, but for the lost and the late ones."""
    load = Workload(rate=rate, duration=1.0, size=256, subscribers=subscribers, seed=7)
    cut = Outage(kind, at=0.35, lasts=0.3, share=share)
    trials = [replace(spec(Measure.LOSS, protocol, one, outage=cut), workload=load) for one in guarantees]
    write_run(folder, {trial: {} for trial in trials})
    for trial in trials:
        here, sent, received = folder / "trials" / trial.name, [], []
        for event, item in enumerate(load.schedule()):
            when = START + item.due_ns + MS
            sent.append((when, 256, item.sequence, EVERYONE, Kind.SENT))
            there = HEALED + MS if event in late else when + MS
            for who in range(subscribers if event not in lost else 0):
                received.append((there, zlib.crc32(item.raw), item.sequence, who, Kind.RECEIVED))
        outage = [(CUT, 0, 0, 0, Kind.CUT), (HEALED, 0, 0, 0, Kind.HEALED)]
        write_ledger(here / "producer.ledger", sorted([*sent, *producer]))
        write_ledger(here / "consumer.ledger", sorted([*received, *consumer]))
        write_ledger(here / "link.ledger", sorted([*outage, *link]))
    return Run(folder)


def tell(run, subscriber=0):
    return story(run.recordings[0], subscriber)


def arrows(chart, *labels):
    return [arrow for arrow in chart.findobj(FancyArrowPatch) if arrow.get_label() in labels]


def crosses(chart, fate):
    return [line for line in chart.findobj(Line2D) if line.get_label() == FATES[fate][0] and line.get_marker() == "X"]


def shaded(chart):
    return [patch for axes in chart.axes for patch in axes.patches if patch.get_label() == "outage"]


ON_TIME, LATE = FATES[Fate.ON_TIME][0], FATES[Fate.LATE][0]


def test_each_event_is_an_arrow_from_when_it_was_sent_to_when_it_arrived(tmp_path):
    chart = charts.sequence(write(tmp_path, "websocket", late=[4, 5]))
    straight, dashed = arrows(chart, ON_TIME), arrows(chart, LATE)
    assert (len(straight), len(dashed)) == (8, 2)
    assert {arrow.get_linestyle() for arrow in straight} == {"-"}
    assert "-" not in {arrow.get_linestyle() for arrow in dashed}
    assert {to_hex(arrow.get_edgecolor()) for arrow in (*straight, *dashed)} == {LOOKS["websocket"].colour}
    (start, end), (late_start, late_end) = (arrow._posA_posB for arrow in (straight[0], dashed[0]))
    assert start[0] == late_start[0] < end[0] == late_end[0]
    tall = straight[1]._posA_posB[0][1] - start[1]  # 100 ms
    assert end[1] - start[1] == pytest.approx(tall / 100)
    assert late_end[1] - late_start[1] == pytest.approx(2.5 * tall)
    assert {"10", "19", "14–15 late", "arrived after the outage"} <= set(words(chart))
    assert "8 arrived on time (10–13, 16–19); 2 arrived after the outage (14–15)" in chart.alt


@pytest.mark.parametrize("fate", [Fate.REJECTED, Fate.GAP_SEEN, Fate.SILENT])
def test_a_lost_event_ends_in_a_cross_that_says_who_knew(tmp_path, fate):
    producer = [(at(4) + MS, 0, 14, 0, kind) for kind in (Kind.FAILED, Kind.REJECTED)]
    gap = [(at(5), 15, 13, 0, Kind.GAP)]
    known = {Fate.REJECTED: {"producer": producer}, Fate.GAP_SEEN: {"consumer": gap}}
    chart = charts.sequence(write(tmp_path, "sse", lost=[4], **known.get(fate, {})))
    (cross,) = [cross for cross in crosses(chart, fate) if cross.axes.get_position().width > 0.1]
    assert cross.get_markerfacecolor() == FATES[fate][1]
    assert len(arrows(chart, ON_TIME)) == 9
    assert f"1 {FATES[fate][0]} (14)" in chart.alt
    assert words(chart).count(FATES[fate][0]) == 2  # beside the cross, and in the legend
    assert ("gap: 14" in words(chart)) == (fate is Fate.GAP_SEEN)
    assert not arrows(chart, "failed")  # the cross says it


def test_attempts_that_failed_are_drawn_with_their_answer(tmp_path):
    producer = [(at(4) + MS, 0, 14, 0, Kind.FAILED), (at(4) + 60 * MS, 503, 14, 0, Kind.FAILED)]
    chart = charts.sequence(write(tmp_path, "webhook", [LEAST], late=[4], producer=producer))
    assert len(arrows(chart, "failed")) == 2
    assert {"14 failed", "14 failed: 503"} <= set(words(chart))
    assert "2 attempts failed (14)" in chart.alt


def test_what_both_sides_noticed_is_marked_on_their_lifelines(tmp_path):
    producer = [(CUT + MS, 0, 0, EVERYONE, Kind.DISCONNECTED)] * 3
    consumer = [(CUT + 2 * MS, 0, 0, 0, Kind.DISCONNECTED), (HEALED + 9 * MS, 0, 0, 0, Kind.CONNECTED)]
    chart = charts.sequence(write(tmp_path, "sse", producer=producer, consumer=consumer))
    assert {"cut off ×3", "cut off", "connected again"} <= set(words(chart))
    assert "producer cut off at 0.351 s; consumer cut off at 0.352 s; consumer connected again at 0.659 s" in chart.alt
    assert chart.alt.count("producer cut off") == 1


def test_a_second_arrival_is_told(tmp_path):
    crc = zlib.crc32(Workload(rate=10, duration=1.0, size=256, subscribers=1, seed=7).schedule()[2].raw)
    chart = charts.sequence(write(tmp_path, "webhook", consumer=[(at(2) + 30 * MS, crc, 12, 0, Kind.REPEATED)]))
    assert "12 again" in words(chart)
    assert "1 came again (12)" in chart.alt


def test_a_broker_stands_between_and_has_two_legs(tmp_path):
    plain = charts.sequence(write(tmp_path / "sse", "sse", lost=[4]))
    chart = charts.sequence(write(tmp_path / "pubsub", "pubsub", lost=[4]))
    assert "broker" in words(chart)
    assert "broker" not in words(plain)
    assert (len(arrows(chart, "to the broker")), len(arrows(chart, ON_TIME))) == (10, 9)
    assert not arrows(plain, "to the broker")
    leg, rest = arrows(chart, "to the broker")[0], arrows(chart, ON_TIME)[0]
    assert leg._posA_posB[1] == rest._posA_posB[0]


def test_no_arrow_ends_at_a_broker_that_is_down(tmp_path):
    chart = charts.sequence(write(tmp_path, "pubsub", lost=[4], late=[5], kind="broker-crash"))
    assert len(arrows(chart, "to the broker")) == 7  # 13, 14 and 15 were sent meanwhile
    (late,) = arrows(chart, LATE)
    assert late._posA_posB[0][0] == arrows(chart, "to the broker")[0]._posA_posB[0][0]


def test_the_outage_is_shaded_for_whom_it_struck_and_named(tmp_path):
    run = write(tmp_path, "sse", [ONCE, LEAST], subscribers=2, share=0.5)
    chart = charts.sequence(run)
    assert len(shaded(chart)) == 2
    assert words(chart).count("outage: close") == 2
    assert "outage from 0.350 s to 0.650 s" in chart.alt
    spared = charts.sequence(run, subscriber=1)
    assert not shaded(spared)
    assert "outage from" not in spared.alt
    assert any("This is subscriber 1, of those from 0 to 1." in text for text in words(spared))


def test_other_traffic_is_grey_and_what_lies_close_is_one_arrow(tmp_path):
    link = [(at(2) + n * MS, 50, 0, 0, Kind.UP) for n in (50, 51, 52)]
    link += [(at(2) + 53 * MS, 200, 0, 0, Kind.DOWN), (at(3) + MS, 300, 0, 0, Kind.DOWN)]
    chart = charts.sequence(write(tmp_path / "one", "polling", link=link))
    (up,), (down,) = arrows(chart, "UP"), arrows(chart, "DOWN")  # the second goes with an event
    assert up._posA_posB[0][0] == down._posA_posB[1][0] > up._posA_posB[1][0]
    assert up._posA_posB[0][1] < down._posA_posB[0][1]
    assert {"150 bytes", "200 bytes"} <= set(words(chart))
    assert not arrows(charts.sequence(write(tmp_path / "two", "polling", link=link, subscribers=2)), "DOWN")


@pytest.mark.parametrize(("before_ms", "room"), [(20, 0), (30, 1), (60, 1)])
def test_an_answer_is_never_drawn_before_its_request(tmp_path, before_ms, room):
    asked = at(5) - before_ms * MS
    link = [(asked, 171, 0, 0, Kind.UP), (asked + MS // 2, 178, 0, 0, Kind.DOWN)]
    chart = charts.sequence(write(tmp_path, "sse", link=link))
    (up,) = arrows(chart, "UP")
    answers = arrows(chart, "DOWN")
    assert len(answers) == room
    assert all(down._posA_posB[0][1] > up._posA_posB[0][1] for down in answers)


def test_requests_lie_before_what_arrives_and_acknowledgements_behind_it(tmp_path):
    requested, acknowledged = at(8) + MS // 2, HEALED + 3 * MS // 2  # half a millisecond from an arrival
    link = [(acknowledged, 71, 0, 0, Kind.UP), (requested, 171, 0, 0, Kind.UP)]
    chart = charts.sequence(write(tmp_path, "sse", [LEAST], late=[4, 5, 6], link=link))
    acknowledgement, request = (arrow._posA_posB[0][1] for arrow in arrows(chart, "UP"))
    assert acknowledgement > max(arrow._posA_posB[1][1] for arrow in arrows(chart, LATE)) + 5
    assert request < arrows(chart, ON_TIME)[-2]._posA_posB[1][1] - 5


def test_nothing_is_set_off_into_an_outage(tmp_path):
    link = [(HEALED + MS // 2, 171, 0, 0, Kind.UP)]
    assert not arrows(charts.sequence(write(tmp_path, "sse", [LEAST], late=[4], link=link)), "UP")


def test_it_zooms_in(tmp_path):
    run = write(tmp_path, "sse", late=[4])
    chart = charts.sequence(run, seconds=(0.1, 0.31))
    assert len(arrows(chart, ON_TIME, LATE)) == 3
    assert not shaded(chart)
    assert {"150 ms", "11", "13"} <= set(words(chart))
    assert {"14", "15"}.isdisjoint(words(chart))
    passing = charts.sequence(run, seconds=(0.5, 0.6))  # one is sent in it, another is on its way
    assert len(arrows(passing, ON_TIME, LATE)) == 2
    assert len(shaded(passing)) == 1


def test_the_heads_say_who_serves(tmp_path):
    said = {"sse": {"server", "client"}, "resthooks": {"server and client"}, "pubsub": {"client", "server"}}
    for protocol, expected in said.items():
        assert expected <= set(words(charts.sequence(write(tmp_path / protocol, protocol))))


def test_all_guarantees_stand_side_by_side(tmp_path):
    run = write(tmp_path, "sse", list(Guarantee))
    assert set(Guarantee) <= set(words(charts.sequence(run)))
    only = charts.sequence(run, guarantee="at-least-once")
    assert set(Guarantee) & set(words(only)) == {LEAST}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "A sequence shows one protocol; choose from websocket, sse."),
        ({"protocol": "webhook"}, "This run has no protocol 'webhook' to show; choose from websocket, sse."),
        ({"protocol": "sse", "guarantee": "durable"}, "no guarantee 'durable' to show; choose from at-most-once."),
        ({"protocol": "sse", "guarantee": "twice"}, "There is no guarantee 'twice'; choose from at-most-once, "),
        ({"protocol": "sse", "outage": "reset"}, "This run has no outage 'reset' to show; choose from close."),
        ({"protocol": "sse", "subscriber": 1}, "This run has no subscriber 1; they are numbered from 0 to 0."),
        ({"protocol": "sse", "seconds": (0.3, 0.2)}, "seconds is (0.3, 0.2); it has to be (from, to), within the 0 to"),
        ({"protocol": "sse", "seconds": (9, 10)}, "seconds is (9, 10); it has to be (from, to), within the 0 to 1 s"),
        ({"protocol": "sse", "seconds": 3}, "seconds is 3; it has to be (from, to)"),
    ],
)
def test_what_the_run_does_not_have_is_said_in_one_sentence(tmp_path, asked, said):
    write(tmp_path / "a", "websocket")
    write(tmp_path / "b", "sse")
    (tmp_path / "b" / "trials" / "loss-sse-at-most-once-close-1").rename(
        tmp_path / "a" / "trials" / "loss-sse-at-most-once-close-1"
    )
    manifest = tmp_path / "a" / "manifest.json"
    one, other = manifest.read_text(), (tmp_path / "b" / "manifest.json").read_text()
    manifest.write_text(
        one.replace('"trials": {', '"trials": {' + other.split('"trials": {')[1].removesuffix("}}") + ", ")
    )
    with pytest.raises(UsageError, match=re.escape(said)):
        charts.sequence(Run(tmp_path / "a"), **asked)


def test_too_many_events_have_to_be_zoomed_in_on(tmp_path):
    run = write(tmp_path, "sse", rate=MOST + 100)
    with pytest.raises(
        UsageError, match=rf"at most {MOST} events and here are {MOST + 100}; zoom in, as with seconds="
    ):
        charts.sequence(run)
    assert charts.sequence(run, seconds=(0, 0.3)).png()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rate", [10, 180])
def test_nothing_overlaps_and_nothing_is_clipped(tmp_path, protocol, rate):
    signs = [(CUT + n * MS, 0, 0, 0, kind) for n in (1, 2, 290, 303) for kind in (Kind.DISCONNECTED, Kind.CONNECTED)]
    failed = [(at(4) + n * 20 * MS, 503, 14, 0, Kind.FAILED) for n in range(9)]
    link = [(START + n * 7 * MS, 171, 0, 0, kind) for n in range(140) for kind in (Kind.UP, Kind.DOWN)]
    how = {"lost": [3, 6], "late": [4, 5], "producer": failed, "consumer": signs, "link": link, "rate": rate}
    chart = charts.sequence(write(tmp_path, protocol, list(Guarantee), **how))
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(chart)]
    for text, box in boxes:
        assert 0 <= box.x0 <= box.x1 <= chart.bbox.width, text
        assert 0 <= box.y0 <= box.y1 <= chart.bbox.height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, other)


@pytest.mark.parametrize("kind", OUTAGES)
def test_every_kind_of_outage_is_drawn(tmp_path, kind):
    protocol = "pubsub" if kind == "broker-crash" else "sse"
    run = write(tmp_path, protocol, kind=kind)
    for role in ("producer", "consumer"):
        write_ledger(tmp_path / "trials" / f"loss-{protocol}-at-most-once-{kind}-1" / f"{role}-2.ledger", [])
    chart = charts.sequence(run)
    assert len(shaded(chart)) == 1
    assert any("outage:" in text and kind in text for text in words(chart))


def test_only_the_first_of_the_repeats_is_shown_and_the_note_says_so(tmp_path):
    run = write_run(
        tmp_path,
        {replace(spec(Measure.LOSS, "sse", repeat=n), workload=Workload(rate=10, duration=1.0)): {} for n in (1, 2)},
    )
    assert any("Of 2 repeats the first is shown." in text for text in words(charts.sequence(run)))


def test_without_a_loss_trial_another_is_shown_and_without_any_a_sentence(tmp_path):
    trial = replace(spec(Measure.BANDWIDTH, "sse"), workload=Workload(rate=10, duration=1.0, seed=7))
    chart = charts.sequence(write_run(tmp_path / "calm", {trial: {}}))
    assert len(arrows(chart, ON_TIME)) == 10
    assert not shaded(chart)
    empty = charts.sequence(write_run(tmp_path / "empty", {}, {"loss-sse-at-least-once-1": "broke"}))
    assert "This run has no finished loss trial, so there is nothing to draw." in empty.alt
    assert not empty.axes


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = write(tmp_path, "pubsub", [ONCE, LEAST], lost=[4], late=[5])
    once, again = charts.sequence(run), charts.sequence(Run(run.folder))
    assert once.png() == again.png()
    assert once.svg() == again.svg()
