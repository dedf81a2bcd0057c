"""Every way to kill or to freeze a process, on real nodes and a short load: what the ledgers then say."""

import os
from itertools import pairwise

import psutil
import pytest
from conftest import family
from trials import Lab

from labkit.faults import FAULTS
from labkit.ledger import Kind, read
from labkit.outage import OUTAGES, Outage, Strikes
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.workload import Workload

TIMINGS = Timings(heartbeat=0.2, poll=0.1, ack=0.5)
LATER = {"consumer-crash": ["consumer"], "consumer-freeze": [], "producer-crash": ["producer"], "broker-crash": []}
"""Which roles another process takes over."""

SOON = 150_000_000
"""Nanoseconds in which what was under way when an outage began has come to its end."""


def trial_of(kind, protocol="sse", guarantee="at-least-once", subscribers=2, lasts=0.2, **outage):
    workload = Workload(rate=50, duration=1.0, subscribers=subscribers, seed=5)
    outage = Outage(kind, 0.2, lasts, **outage)
    return Trial("t", Measure.LOSS, protocol, Guarantee(guarantee), workload, outage, uid="00fa0175", timings=TIMINGS)


@pytest.fixture
def carried_out(tmp_path, monkeypatch):
    """Carries out one trial: its recording and its folder. Of its processes nothing is left, and none complained."""
    monkeypatch.delenv("LABKIT_NATS", raising=False)

    def carry_out(trial):
        lab = Lab(tmp_path, 1)
        try:
            (recording,) = lab.run([trial])
            started = family(os.getpid())
            assert started
        finally:
            lab.close()
        assert psutil.wait_procs(started, timeout=5)[1] == []
        assert list(tmp_path.glob("*.log")) == []
        (folder,) = tmp_path.glob("*/trials/t")
        return recording, folder

    return carry_out


def ledgers(folder):
    return {path.stem for path in folder.glob("*.ledger")}


def of(folder, ledger, *kinds):
    """The records of some kinds."""
    records = read(folder / f"{ledger}.ledger")
    return records[[kind in kinds for kind in records["kind"]]]


def breaks(folder):
    """When each outage began and ended, in ns."""
    found = of(folder, "link", Kind.CUT, Kind.HEALED)
    assert [Kind(kind) for kind in found["kind"]] == [Kind.CUT, Kind.HEALED] * (len(found) // 2)
    return list(zip(found["time_ns"][::2], found["time_ns"][1::2], strict=True))


def test_every_kind_of_outage_has_its_fault():
    assert FAULTS.keys() == OUTAGES.keys()


@pytest.mark.parametrize("repeat", [1, 2])
@pytest.mark.parametrize("kind", LATER)
def test_each_outage_leaves_its_ledgers_in_order_and_nothing_else_is_lost(carried_out, kind, repeat):
    protocol, guarantee = ("pubsub", "durable") if kind == "broker-crash" else ("sse", "at-least-once")
    lasts = 0.2 / repeat
    recording, folder = carried_out(trial_of(kind, protocol, guarantee, lasts=lasts, repeat=repeat))
    more = {f"{role}-{number}" for role in LATER[kind] for number in range(2, repeat + 2)}
    assert ledgers(folder) == {"producer", "link", "consumer"} | more
    windows, start = breaks(folder), recording.phases["load"]
    assert len(windows) == repeat
    assert windows[0][0] >= start + 200_000_000
    for cut, healed in windows:
        assert healed - cut >= lasts * 1e9 - 20_000_000
    for (_, healed), (cut, _) in pairwise(windows):
        assert cut > healed
    outcome = recording.outcome
    assert (outcome.unexpected, outcome.corrupt) == (0, 0)
    assert outcome.delivered + outcome.lost == int(outcome.owed.sum()) > 0
    assert recording.record["drained"] is True
    assert outcome.lost == (dead_with_their_producers(folder, repeat) if kind == "producer-crash" else 0)


def dead_with_their_producers(folder, killed):
    """How many deliveries the log of each killed producer took with it.

    Always the last ones it had: one to a subscriber that was connected, all to one that was not back before the next
    kill, however long it took.
    """
    received = of(folder, "consumer", Kind.RECEIVED)
    dead = 0
    for number in range(1, killed + 2):
        sent = list(of(folder, "producer" if number == 1 else f"producer-{number}", Kind.SENT)["sequence"])
        for subscriber in range(2):
            arrived = set(received["sequence"][received["subscriber"] == subscriber])
            got = [sequence for sequence in sent if sequence in arrived]
            assert got == sent[: len(got)]
            assert len(sent) - len(got) <= {1: 1, killed + 1: 0}.get(number, len(sent))
            dead += len(sent) - len(got)
    return dead


@pytest.mark.parametrize("guarantee", Guarantee)
def test_the_consumer_in_the_place_of_one_that_was_killed_says_that_the_connections_were_lost(carried_out, guarantee):
    recording, folder = carried_out(trial_of("consumer-crash", guarantee=guarantee))
    ((cut, healed),) = breaks(folder)
    assert (of(folder, "consumer", Kind.RECEIVED)["time_ns"] < healed).all()
    after = read(folder / "consumer-2.ledger")
    assert [Kind(kind) for kind in after["kind"][:2]] == [Kind.DISCONNECTED] * 2
    assert (after["time_ns"] > cut).all()
    assert list(of(folder, "consumer-2", Kind.CONNECTED)["subscriber"]).count(0) == 1
    assert (of(folder, "consumer-2", Kind.CONNECTED)["time_ns"] > healed).all()
    assert (recording.outcome.lost == 0) is (guarantee is not Guarantee.AT_MOST_ONCE)


def test_a_frozen_consumer_receives_nothing_until_it_goes_on_and_then_what_was_held_back(carried_out):
    recording, folder = carried_out(trial_of("consumer-freeze", guarantee="at-most-once", lasts=0.4))
    ((cut, healed),) = breaks(folder)
    times = of(folder, "consumer", Kind.RECEIVED)["time_ns"]
    assert not ((times > cut + SOON) & (times < healed)).any()
    assert (times < cut).any()
    assert (times > healed).any()
    assert recording.outcome.lost == 0


def test_two_producers_offer_no_event_twice_and_none_that_was_due_while_there_was_none(carried_out):
    recording, folder = carried_out(trial_of("producer-crash"))
    ((cut, healed),) = breaks(folder)
    first, second = (of(folder, name, Kind.SENT) for name in ("producer", "producer-2"))
    assert (first["time_ns"] < healed).all()
    assert (second["time_ns"] > healed).all()
    sent = [*map(int, first["sequence"]), *map(int, second["sequence"])]
    assert sent == sorted(set(sent))
    schedule = recording.trial.workload.schedule()
    assert sent[-1] == schedule[-1].sequence
    missing = [item for item in schedule if item.sequence not in sent]
    assert len(missing) >= 5
    due = [recording.phases["load"] + item.due_ns for item in missing]
    assert due[0] > recording.phases["load"]
    assert cut < due[-1] < healed
    assert [item.sequence for item in missing] == list(
        range(int(first["sequence"][-1]) + 1, int(second["sequence"][0]))
    )


def test_while_its_broker_is_gone_a_durable_log_accepts_nothing_and_afterwards_everything(carried_out):
    recording, folder = carried_out(trial_of("broker-crash", "pubsub", "durable", lasts=0.4))
    ((cut, _),) = breaks(folder)
    accepted = of(folder, "producer", Kind.ACCEPTED)
    assert not ((accepted["time_ns"] > cut + SOON) & (accepted["time_ns"] < cut + 400_000_000 - SOON)).any()
    assert set(accepted["sequence"]) >= {item.sequence for item in recording.trial.workload.schedule()}
    assert recording.record["usage"]["broker"]["slow_consumers"] == 0


@pytest.mark.parametrize("protocol", ["sse", "webhook"])
@pytest.mark.parametrize("kind", ["consumer-crash", "consumer-freeze", "reset", "silent"])
def test_the_subscribers_an_outage_spares_lose_nothing_and_wait_for_nothing(carried_out, kind, protocol):
    assert OUTAGES[kind].strikes in (Strikes.LINK, Strikes.CONSUMER)
    trial = trial_of(kind, protocol, "at-most-once", subscribers=4, lasts=0.4, share=0.5)
    recording, folder = carried_out(trial)
    assert ledgers(folder) == {"producer", "link", "consumer", "spared"} | (
        {"consumer-2"} if kind == "consumer-crash" else set()
    )
    ((cut, healed),) = breaks(folder)
    schedule, start = trial.workload.schedule(), recording.phases["load"]
    for subscriber in (2, 3):
        found = of(folder, "spared", Kind.RECEIVED)
        mine = {int(r["sequence"]): int(r["time_ns"]) for r in found[found["subscriber"] == subscriber]}
        assert mine.keys() >= {item.sequence for item in schedule}
        early = [item for item in schedule if cut < start + item.due_ns < cut + 100_000_000]
        assert early
        assert all(mine[item.sequence] < healed for item in early)
    assert {int(subscriber) for subscriber in of(folder, "spared", Kind.RECEIVED)["subscriber"]} == {2, 3}
    assert len(of(folder, "spared", Kind.DISCONNECTED)) == 0
    struck = of(folder, "consumer", Kind.RECEIVED)
    assert {int(subscriber) for subscriber in struck["subscriber"]} == {0, 1}
    assert not ((struck["time_ns"] > cut + SOON) & (struck["time_ns"] < healed)).any()
