import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from labkit import choice
from labkit.choice import ABOUT, CRITERIA, comparison, drivers, rank, scores
from labkit.clients import effort
from labkit.errors import UsageError
from labkit.protocols import PROTOCOLS

EVERYTHING = dict.fromkeys(CRITERIA, 1)


def measured(**columns: list[float]) -> pd.DataFrame:
    """Figures of websocket, webhook and sse; what a test does not name is the same for all."""
    names = pd.Index(["websocket", "webhook", "sse"], name="protocol")
    return pd.DataFrame({name: columns.get(name, [10.0, 10.0, 10.0]) for name in CRITERIA}, index=names)


def run(guarantee: str = "at-most-once", **frames: list[tuple]) -> SimpleNamespace:
    """What `table` asks of a run: frames with the columns it reads."""
    columns = {
        "cost": ["protocol", "subscribers", "p50_ms", "overhead_per_delivery", "cpu_us_per_delivery"],
        "loss": ["protocol", "lost", "owed"],
    }
    made = {name: pd.DataFrame(frames.get(name, []), columns=columns[name]) for name in columns}
    return SimpleNamespace(**{name: frame.assign(guarantee=guarantee, measure=name) for name, frame in made.items()})


COSTS = [("sse", 1, 9.0, 15.0, 90.0), ("sse", 50, 1.0, 15.0, 20.0), ("sse", 50, 3.0, 15.0, 40.0)]
QUICK = run(cost=[*COSTS, ("webhook", 50, 4.0, 420.0, 200.0)])
BROKEN = run(loss=[("sse", 5, 50), ("sse", 15, 50), ("webhook", 0, 50)])
REACH = pd.DataFrame(
    [("sse", "plain", 1), ("sse", "buffering", 0), ("webhook", "plain", 1), ("webhook", "buffering", 1)],
    columns=["protocol", "condition", "outcome"],
)


def test_the_table_holds_what_the_runs_measured_in_the_units_of_the_criteria() -> None:
    found = choice.table(QUICK, BROKEN, REACH)
    assert list(found) == list(CRITERIA)
    assert list(found.index) == ["webhook", "sse"]
    assert found.loc["sse", ["latency", "bytes", "loss", "scale"]].tolist() == [2.0, 15.0, 20.0, 30.0]
    assert found.effort.to_dict() == {name: effort(name).lines for name in ("webhook", "sse")}


def test_a_consumer_that_needs_no_port_of_its_own_has_one_way_more() -> None:
    found = choice.table(QUICK, BROKEN, REACH)
    assert effort("webhook").listens
    assert not effort("sse").listens
    assert found.reach.round(1).to_dict() == {"webhook": 66.7, "sse": 66.7}


def test_what_was_not_measured_is_not_guessed_and_counts_as_the_worst() -> None:
    found = choice.table(run(cost=[*COSTS, ("webhook", 50, 4.0, math.nan, 200.0)]), BROKEN, REACH)
    assert math.isnan(found.at["webhook", "bytes"])
    assert scores(measured(bytes=[math.nan, 1, 100])).bytes.tolist() == [0, 1, 0]


@pytest.mark.parametrize("other", ["at-least-once", None])
def test_a_run_of_several_guarantees_or_without_trials_is_refused_in_a_sentence(other: str | None) -> None:
    mixed = run(loss=[("sse", 1, 2), ("sse", 1, 2)] if other else [])
    if other:
        mixed.loss["guarantee"] = ["at-most-once", other]
    with pytest.raises(UsageError, match=r"one guarantee in each run, here are (at-most-once, at-least-once|none)\."):
        choice.table(QUICK, mixed, REACH)


def test_the_best_figure_of_a_column_scores_one_and_the_worst_none() -> None:
    found = scores(measured(latency=[1, 100, 10], reach=[50, 100, 75], loss=[0, 100, 1]))
    assert found.latency.tolist() == pytest.approx([1, 0, 0.5])
    assert found.reach.tolist() == pytest.approx([0, 1, 0.5])
    assert found.loss.tolist() == pytest.approx([1, 0, 0.5])  # nothing lost counts as one in ten thousand
    assert (found.bytes == 1).all()


def test_nothing_of_a_figure_that_is_zero_is_lost_on_a_logarithmic_scale() -> None:
    assert np.isfinite(scores(measured(bytes=[0, 100, 10]))).all(axis=None)


def test_parts_add_up_to_the_score_and_the_best_comes_first() -> None:
    found = rank(measured(latency=[1, 100, 10], bytes=[10, 1, 100]), {"latency": 3, "bytes": 1})
    assert list(found.index) == ["websocket", "sse", "webhook"]
    assert found.drop(columns="score").sum(axis=1).tolist() == pytest.approx(found.score.tolist())
    assert found.score.tolist() == pytest.approx([87.5, 37.5, 25.0])


def test_a_criterion_drives_when_another_protocol_would_lead_without_it() -> None:
    figures = measured(latency=[1, 100, 10], bytes=[10, 1, 100])
    assert drivers(figures, {"latency": 2, "bytes": 1}) == {"latency": "webhook"}
    assert drivers(figures, {"latency": 1}) == {}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"speed": 1}, "Nothing is measured for 'speed'; weigh latency, bytes, loss, reach, effort, scale."),
        ({"latency": 6}, "The weight of latency is 6; it has to be a number from 0 to 5."),
        ({"latency": -1}, "The weight of latency is -1; it has to be a number from 0 to 5."),
        ({"latency": "much"}, "The weight of latency is 'much'; it has to be a number from 0 to 5."),
        ({"latency": True}, "The weight of latency is True; it has to be a number from 0 to 5."),
        ({"latency": 0}, "All weights are 0, so nothing matters; raise one of them."),
        ({}, "All weights are 0, so nothing matters; raise one of them."),
    ],
)
def test_weights_that_cannot_be_are_refused_in_a_sentence(weights: dict, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        rank(measured(), weights)
    assert str(caught.value) == sentence


def test_every_protocol_is_described_and_the_comparison_has_the_figures_beside_it() -> None:
    assert list(ABOUT) == list(PROTOCOLS)
    found = comparison(measured(latency=[1, 100, 10]))
    assert list(found.index) == ["WebSocket", "Webhook", "Server-Sent Events"]
    assert found["median wait, ms"].tolist() == [1, 100, 10]
    assert found.standard["WebSocket"] == "IETF, RFC 6455"


def test_weights_that_are_none_are_a_sentence_and_whole_numbers_of_numpy_are_weights() -> None:
    with pytest.raises(UsageError, match=r"^The weights are None; give a number for each criterion, as in"):
        rank(measured(), None)
    figures = measured(latency=[1, 100, 10])
    assert rank(figures, {"latency": np.int64(2)}).equals(rank(figures, {"latency": 2}))


def test_a_criterion_measured_for_one_protocol_alone_compares_nothing() -> None:
    figures = measured(latency=[math.nan, math.nan, 5], bytes=[1, 10, 100])
    assert scores(figures).latency.tolist() == [0, 0, 0]
    weights = {"latency": 5, "bytes": 1}
    assert list(rank(figures, weights).index) == ["websocket", "webhook", "sse"]
    assert drivers(figures, weights) == {}
