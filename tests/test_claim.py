"""The verdict on hand-made figures: every outcome, what is not there, and tables that describe no claim."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from labkit.claim import Claim, Figure
from labkit.errors import UsageError

FIGURE = {"frame": "loss", "metric": "noticed_ms", "of": "sse", "by": "outage", "holds": "> 5"}
CLAIM = {"id": "x", "protocol": "sse", "claim": "It is so.", "why": "Because.", "depends": "the day", "experiment": "e"}


def run(**noticed):
    rows = [("sse", kind, value) for kind, value in noticed.items()]
    return SimpleNamespace(loss=pd.DataFrame(rows, columns=["protocol", "outage", "noticed_ms"]))


def judge(evidence, **changed):
    return Claim.from_table({**CLAIM, "figures": [{**FIGURE, **changed}]}).judge({"e": evidence})


def shown(*outcomes):
    rows = [("reach", "websocket", f"way {number}", outcome) for number, outcome in enumerate(outcomes)]
    columns = ["demonstration", "protocol", "condition", "outcome"]
    return SimpleNamespace(demonstrations=pd.DataFrame(rows, columns=columns))


def demonstrated(*outcomes):
    figure = {"frame": "demonstrations", "metric": "outcome", "of": "websocket", "by": "condition", "holds": "== 1"}
    table = {**CLAIM, "figures": [{**figure, "label": "It passes", "where": {"demonstration": "reach"}}]}
    return Claim.from_table(table).judge({"e": shown(*outcomes)})


@pytest.mark.parametrize(
    ("noticed", "verdict"),
    [
        ({"reset": 6.0, "close": 7.0}, "supported"),
        ({"reset": 4.0, "close": 5.0}, "refuted"),
        ({"reset": 6.0, "close": 5.0}, "it depends"),
    ],
)
def test_all_hold_none_or_some(noticed, verdict):
    assert judge(run(**noticed))[0] == verdict


def test_the_words_say_which_hold_and_which_do_not():
    assert judge(run(reset=6, close=5))[1] == "Time to notice > 5 ms? yes: reset (6.0); no: close (5.0)."
    assert judge(run(reset=6), by="")[1] == "Time to notice > 5 ms? yes: 6.0."


@pytest.mark.parametrize(
    ("nan", "verdict", "words"),
    [
        ("holds", "supported", "yes: reset (6.0), silent (never)."),
        ("fails", "it depends", "yes: reset (6.0); no: silent (never)."),
        ("skip", "supported", "yes: reset (6.0); no case: silent."),
        ("", "supported", "yes: reset (6.0); undecided: silent (never)."),
    ],
)
def test_what_is_not_there_counts_as_the_claim_says(nan, verdict, words):
    found = judge(run(reset=6.0, silent=np.nan), **({"nan": nan} if nan else {}))
    assert found[0] == verdict
    assert found[1].endswith(words)


def test_a_claim_that_nothing_decides_is_not_measured():
    verdict, words = judge(run(silent=np.nan), nan="skip")
    assert verdict == "not measured"
    assert "no case decides it" in words


def test_what_is_absent_may_have_words_of_its_own():
    found = judge(run(reset=6.0, silent=np.nan), nan="skip", absent="not noticed at all")
    assert found == ("supported", "Time to notice > 5 ms? yes: reset (6.0); not noticed at all: silent.")


def test_an_inconclusive_trial_decides_nothing_and_is_told():
    evidence = run(reset=6.0, close=1.0)
    evidence.loss["inconclusive"] = [False, True]
    assert judge(evidence) == (
        "supported",
        "Time to notice > 5 ms? yes: reset (6.0); not measured, inconclusive: close.",
    )
    evidence.loss["inconclusive"] = True
    assert judge(evidence)[0] == "not measured"


def test_a_base_or_a_baseline_in_doubt_leaves_nothing_decided():
    evidence = run(a=2.0, b=20.0)
    evidence.loss["inconclusive"] = [True, False]
    assert judge(evidence, base="a", holds="<= 1.5")[0] == "not measured"
    claim = Claim.from_table({**CLAIM, "figures": [{**FIGURE, "baseline": "other"}]})
    verdict, words = claim.judge({"e": run(a=60.0, b=60.0), "other": evidence})
    assert (verdict, words) == ("refuted", "Time to notice > 5×? no: b (3.00); not measured, inconclusive: a.")


def test_a_time_of_a_saturated_generator_decides_nothing_and_is_told():
    evidence = run(reset=6.0)
    evidence.loss["saturated"] = True
    assert judge(evidence)[0] == "not measured"
    assert judge(evidence)[1].endswith("not measured, generator saturated: reset (6.0).")


def test_never_holds_where_there_is_no_figure():
    assert judge(run(silent=np.nan), holds="never")[0] == "supported"
    assert judge(run(silent=np.nan, reset=1.0), holds="never")[0] == "it depends"
    assert judge(run(reset=1.0), holds="never")[1] == "Time to notice: never? no: reset (1.0)."


def test_a_base_divides_the_others_and_is_no_case_itself():
    verdict, words = judge(run(a=2.0, b=20.0, c=2.0), base="a", holds="<= 1.5")
    assert (verdict, words) == ("it depends", "Time to notice ≤ 1.5×? yes: c (1.00); no: b (10.00).")
    lacking = run(b=20.0)
    lacking.again = "do it again"
    assert judge(lacking, base="a")[1].endswith("There is no outage a to compare with; do it again.")
    assert judge(run(b=20.0), base="a") == (
        "not measured",
        "Not measured in this run: There is no outage a to compare with.",
    )


def test_a_baseline_is_the_same_asked_of_another_experiment():
    claim = Claim.from_table({**CLAIM, "figures": [{**FIGURE, "by": "", "baseline": "other"}]})
    assert claim.judge({"e": run(a=60.0), "other": run(a=10.0)})[0] == "supported"
    assert claim.judge({"e": run(a=60.0), "other": run(a=20.0)})[0] == "refuted"
    assert "'other' is not in it" in claim.judge({"e": run(a=60.0)})[1]


def test_a_ratio_to_nothing_is_shown_as_such():
    frame = pd.DataFrame([("sse", 0.0), ("websocket", 1.0)], columns=["protocol", "noticed_ms"])
    found = judge(SimpleNamespace(loss=frame), of="websocket", against="sse", by="")
    assert found == ("supported", "Time to notice > 5×? yes: ∞.")


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [([1.0, 1.0], "demonstrated"), ([0.0, 0.0], "refuted"), ([1.0, 0.0], "it depends")],
)
def test_a_demonstration_is_held_against_the_outcome_that_the_claim_states(outcomes, verdict):
    assert demonstrated(*outcomes)[0] == verdict


def test_a_demonstration_is_told_without_figures():
    assert demonstrated(1.0, 0.0)[1] == "It passes? yes: way 0; no: way 1."


def test_what_is_cited_needs_no_run():
    table = {name: value for name, value in CLAIM.items() if name != "experiment"}
    assert Claim.from_table({**table, "source": "RFC 1, section 2."}).judge({}) == ("cited", "RFC 1, section 2.")


def test_what_is_cited_is_better_demonstrated():
    claim = Claim.from_table({**CLAIM, "source": "RFC 1.", "figures": [FIGURE]})
    assert claim.judge({}) == ("cited", "RFC 1.")
    assert claim.judge({"e": run(reset=6.0)}) == ("supported", "Time to notice > 5 ms? yes: reset (6.0).\nRFC 1.")


def test_what_the_run_does_not_answer_is_said():
    assert judge(None) == ("not measured", "Not measured in this run: The experiment 'e' is not in it.")
    assert judge(UsageError("It is damaged.")) == ("not measured", "Not measured in this run: It is damaged.")
    assert judge(run(reset=1.0), of="websocket")[1].startswith(
        "Not measured in this run: This run has no loss trial of w"
    )


def test_a_failed_trial_decides_nothing():
    evidence = run(reset=6.0, close=6.0)
    evidence.errors = {"loss-sse-at-most-once-silent-1": "The link stopped."}
    assert judge(evidence)[1] == (
        "Not measured in this run: The trial loss-sse-at-most-once-silent-1 failed: The link stopped."
    )
    evidence.errors = {"loss-websocket-at-most-once-silent-1": "The link stopped."}
    assert judge(evidence)[0] == "supported"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"why": ""}, "lacks 'why'"),
        ({"wy": "x"}, "has 'wy'"),
        ({"protocol": "gopher"}, "is of 'gopher' and not of general, websocket,"),
        ({"depends": ""}, "lacks 'depends'"),
        ({"figures": []}, "lacks figures, or a source to cite"),
        ({"figures": [{**FIGURE, "holds": "more"}]}, "holds is 'more'; write a comparison and a number"),
        ({"figures": [{**FIGURE, "nan": "maybe"}]}, "nan is 'maybe'; choose holds, fails or skip"),
        ({"figures": [{**FIGURE, "metrics": 1}]}, "has 'metrics'; a query is of frame,"),
        ({"figures": [{**FIGURE, "of": "gopher"}]}, "There is no protocol 'gopher'"),
        ({"figures": [{"holds": "> 1"}]}, "lacks 'frame'"),
        ({"figures": "none"}, "damaged"),
    ],
)
def test_a_damaged_table_is_named(changed, words):
    with pytest.raises(UsageError, match="The claim 'x' is damaged") as error:
        Claim.from_table({**CLAIM, "figures": [FIGURE], **changed})
    assert words in str(error.value)


def test_a_figure_may_be_of_an_experiment_of_its_own():
    table = {**CLAIM, "figures": [FIGURE, {**FIGURE, "experiment": "f"}]}
    assert [figure.experiment for figure in Claim.from_table(table).figures] == ["e", "f"]
    assert Figure.from_table(FIGURE, "e").experiment == "e"
