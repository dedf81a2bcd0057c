"""The promises of every protocol and guarantee, put to random outages over real servers."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trials import Lab

from labkit.outage import OUTAGES, Outage, Strikes
from labkit.plan import unmet
from labkit.promises import broken, may_lose
from labkit.protocols import PROTOCOLS, find
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.workload import Workload

WORKLOAD = Workload(rate=60, duration=1.5, subscribers=4)
TIMINGS = Timings(heartbeat=0.3, poll=0.03, retry_limit=0.2, attempts=40, request=1.0, ack=0.5)
"""Retries that outlast every outage drawn here."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), len(Guarantee))
    yield lab
    lab.close()


def outages(protocol: str) -> st.SearchStrategy[Outage]:
    """Any outage that the protocol can meet and that is over before the load is."""

    def plan(kind: str, at: float, lasts: float, share: float, repeat: int) -> Outage:
        whole = OUTAGES[kind].strikes in (Strikes.PRODUCER, Strikes.BROKER)
        return Outage(kind, round(at, 3), round(lasts, 3), 1.0 if whole else share, repeat)

    kinds = [kind for kind in OUTAGES if unmet(protocol, Outage(kind)) is None]
    return st.builds(
        plan,
        kind=st.sampled_from(kinds),
        at=st.floats(0.0, 0.6),
        lasts=st.floats(0.02, 0.25),
        share=st.sampled_from([0.25, 0.5, 1.0]),
        repeat=st.integers(1, 2),
    )


def trial(protocol: str, guarantee: Guarantee, outage: Outage | None, number: int) -> Trial:
    name = f"{guarantee}-{number}"
    made = Trial(name, Measure.LOSS, protocol, guarantee, WORKLOAD, outage, uid=f"promises{protocol}{number}")
    return replace(made, timings=TIMINGS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_promise_is_kept_whatever_breaks_whenever_how_long_how_often_and_for_whom(
    lab: Lab, protocol: str
) -> None:
    """One outage a guarantee, side by side: in all three, every missing delivery is accounted for."""

    @settings(
        max_examples=4,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans=st.tuples(*[outages(protocol)] * len(Guarantee)))
    def scenario(plans: tuple[Outage, ...]) -> None:
        trials = [
            trial(protocol, guarantee, plan, n)
            for n, (guarantee, plan) in enumerate(zip(Guarantee, plans, strict=True))
        ]
        for recording in lab.run(trials):
            outcome, outage = recording.outcome, recording.trial.outage
            assert broken(recording) == [], (recording.trial.guarantee, outage)
            assert int(outcome.owed.sum()) == outcome.delivered + outcome.lost
            assert len(outcome.windows) == outage.repeat
            assert all(healed is not None for _, healed in outcome.windows)

    scenario()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_an_outage_every_guarantee_delivers_everything_in_order_and_once(lab: Lab, protocol: str) -> None:
    for recording in lab.run([trial(protocol, guarantee, None, n) for n, guarantee in enumerate(Guarantee)]):
        assert broken(recording) == []
        superseding = find(protocol).latest_only and not recording.trial.recovers
        assert recording.outcome.lost == 0 or superseding
        assert (recording.outcome.duplicated, recording.outcome.reordered) == (0, 0)


@pytest.mark.parametrize("guarantee", Guarantee)
def test_a_frozen_consumer_delays_its_own_subscribers_only(lab: Lab, guarantee: Guarantee) -> None:
    outage = Outage("consumer-freeze", at=0.4, lasts=0.5, share=0.5)
    (recording,) = lab.run([trial("sse", guarantee, outage, 0)])
    late = (recording.outcome.arrived_ns - recording.offer.due_ns) / 1e9
    assert broken(recording) == []
    assert (late[:2].max(axis=1) > 0.4).all()
    assert (np.median(late[2:], axis=1) < 0.1).all()


def test_the_promises_are_broken_by_a_loss_that_no_outage_explains(lab: Lab) -> None:
    (recording,) = lab.run([trial("websocket", Guarantee.AT_LEAST_ONCE, None, 0)])
    unexplained = recording.outcome.unexplained.copy()
    unexplained[0, 3] = True
    outcome = replace(recording.outcome, unexplained=unexplained, twice=3, reordered=2, verdict="inconclusive")
    words = ["1 unexplained", "3 given to the application again", "2 out of order", "inconclusive"]
    assert broken(replace(recording, outcome=outcome)) == words


def test_only_at_least_once_may_lose_with_the_memory_of_a_killed_producer(lab: Lab) -> None:
    crash = Outage("producer-crash", at=0.5, lasts=0.1)
    (recording,) = lab.run([trial("sse", Guarantee.DURABLE, crash, 0)])
    allowed = {
        (protocol, guarantee): may_lose(
            replace(recording, trial=replace(recording.trial, protocol=protocol, guarantee=guarantee))
        )
        for protocol in ("sse", "pubsub")
        for guarantee in Guarantee
    }
    assert allowed == {
        ("sse", Guarantee.AT_MOST_ONCE): True,
        ("sse", Guarantee.AT_LEAST_ONCE): True,
        ("sse", Guarantee.DURABLE): False,
        ("pubsub", Guarantee.AT_MOST_ONCE): True,
        ("pubsub", Guarantee.AT_LEAST_ONCE): False,
        ("pubsub", Guarantee.DURABLE): False,
    }
