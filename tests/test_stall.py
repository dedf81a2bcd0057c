"""The lab's self-test against coordinated omission: a stall shows in the percentiles as long as it was."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from trials import Lab

from labkit.outage import Outage
from labkit.trial import Guarantee, Measure, Trial
from labkit.workload import Workload

DURATION, STALL = 30.0, 1.4
PROTOCOLS = ("websocket", "sse", "pubsub", "webhook")


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), len(PROTOCOLS))
    yield lab
    lab.close()


def test_a_consumer_frozen_for_1_4_s_in_a_trial_of_30_s_gives_a_99th_percentile_of_1_1_s(lab: Lab) -> None:
    """What was due in the stall waited for its end: evenly from 0 to 1.4 s, 4.7 % of all. One in 100 waits 1.1 s."""
    freeze = Outage("consumer-freeze", at=10.0, lasts=STALL)
    workload = Workload(rate=50, duration=DURATION, subscribers=2)
    made = Trial("stall", Measure.LOSS, "", Guarantee.AT_MOST_ONCE, workload, freeze)
    trials = [replace(made, name=protocol, protocol=protocol, uid=f"stall{protocol}") for protocol in PROTOCOLS]
    for recording in lab.run(trials):
        ordered = recording.latencies_ms()
        assert len(ordered) == workload.rate * DURATION * workload.subscribers
        assert np.quantile(ordered, 0.99) == pytest.approx((STALL - DURATION / 100) * 1000, rel=0.1)
        assert np.quantile(ordered, 0.5) < 100
