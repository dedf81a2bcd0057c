"""Charts of several experiments, judged before anything is run: what each needs, and the sentence where it lacks it."""

from collections.abc import Collection
from typing import Any

import pytest

from labkit import several
from labkit.api import planned, swept
from labkit.errors import UsageError
from labkit.overlay import LETTERS
from labkit.plan import Plan
from labkit.several import named

PLANS: dict[str, Plan] = {
    "cost": planned(measures="cost", guarantees="durable"),
    "costs": planned(measures="cost"),
    "loss": planned(measures="loss", guarantees="at-most-once", outage=["reset", "close"]),
    "both": planned(measures=["cost", "loss"], guarantees="at-most-once"),
    "unbroken": planned(outage=None),
    "pushed": planned(measures="latency", protocols="sse"),
    "polled": planned(measures="latency", protocols="polling"),
    "sizes": swept("size", [256, 512]),
    "rates": swept("rate", [10, 20]),
}
RANKING = {"cost": "cost", "loss": "loss", "weights": {"latency": 1}}


def refusal(table: Any, name: str = "odd", demonstrated: Collection[str] = ("reach",)) -> str:
    """The one sentence with which a chart of these plans is refused."""
    with pytest.raises(UsageError) as caught:
        several.check(name, table, PLANS, demonstrated)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "table",
    [
        RANKING,
        {**RANKING, "cost": "sizes"},
        {**RANKING, "cost": "both", "loss": "both"},
        {"overlay": {"A": "pushed"}},
        {"overlay": {"A": "pushed", "B": "pushed"}},
        {"overlay": {"A": "pushed", "B": "unbroken", "C": "polled"}},
        {"overlay": {"A": "loss", "B": "both"}},
        {"overlay": {f"{number}": "loss" for number in range(len(LETTERS))}},
    ],
    ids=str,
)
def test_what_can_be_drawn_is_taken(table: Any) -> None:
    several.check("fine", table, PLANS, {"reach", "half_open"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "The chart 'odd' is {}; it is of overlay, "),
        ({"overlay": {}}, "The chart 'odd' is {'overlay': {}}; it is of overlay, "),
        ({"overlay": ["pushed"]}, "The chart 'odd' is "),
        ({"overlay": {"A": 5}}, "The chart 'odd' is "),
        (
            {"overlay": {"A": "gone"}},
            "In the chart 'odd': there is no experiment 'gone' with trials; choose from cost, ",
        ),
        ({**RANKING, "loss": "gone"}, "there is no experiment 'gone' with trials"),
        ({"overlay": {"A": "pushed", "B": "rates"}}, "the experiment 'rates' is a sweep, "),
        ({"overlay": {f"{number}": "loss" for number in range(9)}}, "there are 9 experiments to lay over each other; "),
        (
            {"overlay": {"A": "cost", "B": "costs"}},
            "measure nothing that it shows; have one of latency, bandwidth, loss",
        ),
        ({"overlay": {"A": "pushed", "B": "polled"}}, "no two of its experiments measure the same"),
        ({"overlay": {"A": "pushed", "B": "loss"}}, "no two of its experiments measure the same"),
        ({**RANKING, "weights": 5}, "The weights are 5; give a number for each criterion, as in {'latency': 1}."),
        ({**RANKING, "weights": {"nope": 1}}, "Nothing is measured for 'nope'; weigh latency, "),
        ({**RANKING, "weights": {"latency": 0}}, "All weights are 0"),
        ({**RANKING, "cost": "loss"}, "its cost is 'loss', which has no trial of it; write measures = \"cost\" in it."),
        ({**RANKING, "cost": "rates"}, "its cost is 'rates', which has no trial of it"),
        ({**RANKING, "cost": "costs"}, "its cost is 'costs', which is at-most-once and at-least-once; name one guar"),
        ({**RANKING, "loss": "cost"}, "its loss is 'cost', which has no trial of it; write measures = \"loss\" and an"),
        ({**RANKING, "loss": "unbroken"}, "its loss is 'unbroken', which has no trial of it"),
    ],
)
def test_what_could_not_be_drawn_is_a_sentence_that_names_the_chart_and_what_it_lacks(table: Any, said: str) -> None:
    text = refusal(table)
    assert "chart 'odd'" in text
    assert said in text


def test_a_ranking_needs_the_demonstration_of_reach() -> None:
    assert "needs demonstrations of reach, and there are none" in refusal(RANKING, demonstrated={"half_open"})


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "x" * 61])
def test_a_chart_is_called_as_a_file_can_be(name: str) -> None:
    assert refusal({"overlay": {"A": "pushed"}}, name).startswith("A chart is called ")


def test_a_chart_names_what_it_is_made_from() -> None:
    assert named(RANKING) == ["cost", "loss"]
    assert named({"overlay": {"A": "x", "B": "y"}}) == ["x", "y"]
    assert named({"overlay": {"A": "x"}, "weights": {}}) == named("overlay") == named({**RANKING, "cost": 5}) == []
