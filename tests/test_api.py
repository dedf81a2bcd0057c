"""What `compare` and `sweep` make of their arguments; what cannot be is one sentence. Nothing is run."""

from typing import Any

import pytest

from labkit import api
from labkit.errors import UsageError
from labkit.plan import Plan
from labkit.trial import Guarantee, Measure


def swept(**given: Any) -> Plan:
    return api.swept("rate", [10, 20], **given)


@pytest.mark.parametrize(
    ("planned", "given", "said"),
    [
        (api.planned, {"protocols": 3}, "protocols is 3; name one or several of websocket, webhook, "),
        (api.planned, {"guarantees": 5}, "guarantees is 5; name one or several of at-most-once, at-least-once, dur"),
        (api.planned, {"measures": 0}, "measures is 0; name one or several of latency, bandwidth, loss, cost, duplex."),
        (api.planned, {"measures": []}, "There is nothing to measure; name one or several of latency, "),
        (api.planned, {"measures": "loss", "outage": "none"}, "Loss is measured in an outage, and there is none; "),
        (api.planned, {"outage": 5}, "outage is 5; name one or several of close, reset, "),
        (api.planned, {"outage": [["reset"]]}, "There is no outage ['reset']; choose close, reset, "),
        (swept, {"protocols": 3}, "protocols is 3; name one or several of websocket, webhook, "),
        (swept, {"protocols": []}, "There is nothing to compare; name a protocol (websocket, "),
        (swept, {"guarantees": 5}, "guarantees is 5; name one or several of at-most-once, "),
        (swept, {"linked": "no"}, "linked is 'no'; it has to be true or false."),
    ],
)
def test_what_cannot_be_compared_or_swept_is_a_sentence_with_the_value_and_the_fix(
    planned: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        planned(**given)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("over", [["rate"], {}, 5, None], ids=str)
def test_what_is_no_parameter_to_sweep_over_is_named(over: Any) -> None:
    with pytest.raises(UsageError, match=r"^There is no sweep over .*; choose from rate, topics, "):
        api.swept(over, [10])


@pytest.mark.parametrize("twice", [["sse", "sse"], ("sse", "sse"), {"sse": 1}], ids=str)
def test_what_is_named_twice_is_run_once(twice: Any) -> None:
    plan = api.planned(
        protocols=twice,
        guarantees=["at-most-once", Guarantee.AT_MOST_ONCE],
        measures=["loss", Measure.LOSS],
        outage=["reset", "close", "reset"],
    )
    assert [trial.name for trial in plan.trials()] == [f"loss-sse-at-most-once-{kind}-1" for kind in ("reset", "close")]
    names = [trial.name for trial in swept(protocols=twice, guarantees=["durable", "durable"]).trials()]
    assert names == [f"latency-sse-durable-rate-{rate}-1" for rate in (10, 20)]
