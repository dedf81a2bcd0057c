"""Progress: what is left is what was planned, at the pace so far; every trial has a bar that says how it is."""

import re

import pytest

from labkit.api import planned
from labkit.plan import ROOM
from labkit.progress import SURE, Progress, expected_s
from labkit.workload import Workload


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def made(clock, *measures, protocols=("sse", "webhook")):
    plan = planned(Workload(duration=2), protocols, "at-most-once", measures)
    return Progress(plan.trials(), clock)


def test_before_anything_began_the_plan_tells_what_is_left(clock):
    progress = made(clock, "latency")
    assert progress.left_s() == pytest.approx(sum(map(expected_s, progress.trials)))


def test_trials_that_run_side_by_side_take_a_share_of_their_time(clock):
    progress = made(clock, "loss")
    assert progress.left_s() == pytest.approx(sum(map(expected_s, progress.trials)) / ROOM)


def test_a_slow_machine_is_expected_to_stay_slow(clock):
    progress = made(clock, "latency")
    first, second = progress.trials
    progress.begun(first)
    clock.now += 3 * expected_s(first)
    progress.ended(first, None)
    assert progress.finished == 1
    first_s = expected_s(first)
    assert progress.left_s() == pytest.approx(expected_s(second) * (3 * first_s + SURE) / (first_s + SURE))


def test_what_is_under_way_counts_down_and_never_below_nothing(clock):
    progress = made(clock, "latency", protocols=("sse",))
    [trial] = progress.trials
    progress.begun(trial)
    clock.now += 1
    assert progress.left_s() == pytest.approx(expected_s(trial) - 1)
    clock.now += 1000
    assert progress.left_s() == 0


def test_idle_phases_make_a_bandwidth_trial_longer(clock):
    latency, bandwidth = made(clock, "latency", "bandwidth", protocols=("longpolling",)).trials
    assert expected_s(bandwidth) > expected_s(latency) + bandwidth.timings.hold


def bars(progress):
    return re.findall(r'aria-label="([^"]*)"', progress.html())


def test_every_trial_has_a_bar_that_says_how_it_is(clock):
    progress = made(clock, "latency", "loss")
    first, second, third, _ = progress.trials
    assert all(told.endswith(": waits") for told in bars(progress))
    assert len(bars(progress)) == 4
    progress.begun(first)
    clock.now += 1.25
    progress.ended(first, None)
    progress.begun(second)
    progress.ended(second, "it broke <there>")
    progress.begun(third)
    clock.now += 0.5
    left = round(expected_s(third) - 0.5)
    assert sorted(bars(progress)) == [
        "Latency of Server-Sent Events, at-most-once: took 1.2 s",
        "Latency of Webhook, at-most-once: failed: it broke &lt;there&gt;",
        f"Loss of Server-Sent Events, at-most-once: is under way, about {left} s left",
        "Loss of Webhook, at-most-once: waits",
    ]
    assert re.findall(r'aria-valuenow="(\d+)"', progress.html()).count("100") == 2
    # The page lets the bar grow from where it is.
    assert "s linear -0.5s forwards" in progress.html()


def test_what_was_stopped_waits_forever(clock):
    progress = made(clock, "latency")
    progress.begun(progress.trials[0])
    progress.stopped()
    assert bars(progress)[0].endswith(": waits")
    assert "animation:" not in progress.html().partition("</style>")[2]
