from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from labkit.errors import UsageError
from labkit.query import Query

ONCE, LEAST = "at-most-once", "at-least-once"


@pytest.fixture
def run():
    latency = pd.DataFrame(
        [
            ("websocket", ONCE, 1, 1.0),
            ("websocket", ONCE, 2, 9.0),
            ("websocket", ONCE, 3, 2.0),
            ("websocket", LEAST, 1, 4.0),
            ("webhook", ONCE, 1, 8.0),
            ("webhook", LEAST, 1, 2.0),
            ("sse", ONCE, 1, 0.0),
            ("sse", LEAST, 1, np.nan),
        ],
        columns=["protocol", "guarantee", "trial", "p50_ms"],
    )
    loss = pd.DataFrame(
        [
            ("websocket", "silent", np.nan, "lossy", True, 10.0),
            ("websocket", "reset", 5.0, "lossy", True, 100.0),
            ("sse", "reset", 2.5, "complete", False, 100.0),
        ],
        columns=["protocol", "outage", "noticed_ms", "verdict", "saturated", "rate"],
    )
    return SimpleNamespace(latency=latency, loss=loss, bandwidth=latency[:0], folder="runs/1")


def test_repeats_are_pooled_by_their_median(run):
    assert Query("latency", "p50_ms", "websocket", where={"guarantee": ONCE}).ask(run) == {"": 2.0}


def test_an_inconclusive_trial_or_a_time_of_a_saturated_one_is_in_doubt(run):
    latency = run.latency.assign(saturated=run.latency["protocol"] == "webhook", events=1)
    run.latency = latency.assign(inconclusive=(latency["protocol"] == "sse") & (latency["guarantee"] == LEAST))
    asked = {"frame": "latency", "metric": "p50_ms", "of": ("websocket", "webhook", "sse")}
    assert Query(**asked, by="protocol").doubts(run) == {"webhook": "generator saturated", "sse": "inconclusive"}
    assert Query(**{**asked, "metric": "events"}, by="protocol").doubts(run) == {"sse": "inconclusive"}
    assert Query(**{**asked, "of": "sse"}, by="guarantee").doubts(run) == {LEAST: "inconclusive"}
    assert Query(**{**asked, "of": "sse"}, where={"guarantee": ONCE}).doubts(run) == {}
    divided = {**asked, "of": ("websocket", "webhook"), "against": "sse"}
    assert Query(**divided, by="guarantee", where={"guarantee": LEAST}).doubts(run) == {LEAST: "inconclusive"}
    assert set(Query(**divided, by="protocol").doubts(run)) >= {"websocket", "webhook"}
    assert Query(**{**asked, "of": "websocket"}).doubts(run) == {}


def test_what_is_lacking_is_got_by_what_the_evidence_names(run):
    run.again = "remove 'x' and do it again"
    with pytest.raises(UsageError, match="no latency trial of polling; remove 'x' and do it again"):
        Query("latency", "p50_ms", "polling").ask(run)


def test_each_value_of_by_has_a_figure_in_order_of_appearance(run):
    found = Query("latency", "p50_ms", "websocket", by="guarantee").ask(run)
    assert list(found.items()) == [(ONCE, 2.0), (LEAST, 4.0)]
    assert list(Query("loss", "noticed_ms", "websocket", by="outage").ask(run)) == ["silent", "reset"]
    assert list(Query("loss", "noticed_ms", "websocket", by="rate").ask(run)) == ["10", "100"]


def test_several_protocols_count_as_their_median_however_often_each_was_repeated(run):
    query = Query("latency", "p50_ms", ("websocket", "webhook", "sse"), where={"guarantee": ONCE})
    assert query.ask(run) == {"": 2.0}
    assert Query("latency", "p50_ms", ("websocket", "webhook"), where={"guarantee": ONCE}).ask(run) == {"": 5.0}


def test_by_protocol_gives_each_its_own_figure_over_one_figure_of_the_others(run):
    asked = {"frame": "latency", "metric": "p50_ms", "of": ("websocket", "webhook"), "by": "protocol"}
    assert Query(**asked, where={"guarantee": ONCE}).ask(run) == {"websocket": 2.0, "webhook": 8.0}
    assert Query(**asked, against="websocket", where={"guarantee": ONCE}).ask(run) == {"websocket": 1, "webhook": 4}


def test_a_ratio_matches_its_rows_on_by(run):
    assert Query("latency", "p50_ms", "webhook", "websocket", by="guarantee").ask(run) == {ONCE: 4.0, LEAST: 0.5}
    found = Query("loss", "noticed_ms", "websocket", "sse", by="outage").ask(run)
    assert found["reset"] == 2.0
    assert np.isnan(found["silent"])


def test_a_ratio_to_nothing_is_infinite(run):
    assert Query("latency", "p50_ms", "websocket", "sse", where={"guarantee": ONCE}).ask(run) == {"": np.inf}


def test_what_was_never_measured_stays_so(run):
    found = Query("latency", "p50_ms", "sse", by="guarantee").ask(run)
    assert found[ONCE] == 0.0
    assert np.isnan(found[LEAST])
    assert np.isnan(Query("latency", "p50_ms", ("sse", "webhook"), where={"guarantee": LEAST}).ask(run)[""])
    one_repeat_never = run.latency.assign(p50_ms=[1.0, np.nan, 2.0, 4.0, 8.0, 2.0, 0.0, np.nan])
    run.latency = one_repeat_never
    assert np.isnan(Query("latency", "p50_ms", "websocket", where={"guarantee": ONCE}).ask(run)[""])


def test_a_column_of_nones_is_one_of_nothing_measured(run):
    run.loss["noticed_ms"] = pd.Series([None] * 3, dtype=object)
    assert np.isnan(Query("loss", "noticed_ms", "sse").ask(run)[""])


def test_where_takes_a_value_or_a_list(run):
    assert Query("loss", "noticed_ms", "websocket", where={"outage": ["reset", "close"]}).ask(run) == {"": 5.0}
    assert Query("loss", "saturated", "sse", where={"rate": 100}).ask(run) == {"": 0.0}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"frame": "duplex"}, "This run measured no duplex; run `labkit compare --duplex` for one that does."),
        ({"frame": "bandwidth"}, "This run measured no bandwidth; run `labkit compare` for one"),
        ({"frame": "folder"}, "measured no folder"),
        ({"metric": "p51_ms"}, "latency has no column 'p51_ms'"),
        ({"by": "rate"}, "latency has no column 'rate'"),
        ({"where": {"outage": "reset"}}, "latency has no column 'outage'"),
        (
            {"where": {"guarantee": "durable"}},
            "has latency only with guarantee at-most-once, at-least-once; run `labkit compare` with durable.",
        ),
        ({"of": ("sse", "polling")}, "no latency trial of polling; run `labkit compare --protocol polling`."),
        ({"against": "pubsub", "where": {"trial": 1}}, "no latency trial of pubsub with trial 1;"),
        ({"frame": "loss", "metric": "verdict"}, "'verdict' holds no numbers"),
    ],
)
def test_what_the_run_lacks_is_said_in_one_sentence(run, asked, words):
    query = Query(**{"frame": "latency", "metric": "p50_ms", "of": "websocket", **asked})
    with pytest.raises(UsageError) as error:
        query.ask(run)
    assert words in str(error.value)
    assert str(error.value).endswith(".")


def test_a_table_is_a_query():
    table = {"frame": "loss", "metric": "lost", "of": ["sse", "websocket"], "where": {"outage": "reset"}}
    assert Query.from_table(table) == Query("loss", "lost", ("sse", "websocket"), where={"outage": "reset"})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"frame": "loss", "metric": "lost", "of": "sse", "off": 1}, "has 'off'; a query is of frame, metric, of,"),
        ({"frame": "loss", "of": "sse"}, "lacks 'metric'; a query is of frame,"),
        ({"frame": "loss", "metric": "lost", "of": []}, "lacks 'of'"),
        ({"frame": "loss", "metric": "lost", "of": "gopher"}, "There is no protocol 'gopher'"),
        ({"frame": "loss", "metric": "lost", "of": "sse", "against": ["gopher"]}, "There is no protocol 'gopher'"),
    ],
)
def test_a_table_that_is_none_is_refused(table, words):
    with pytest.raises(UsageError, match=words):
        Query.from_table(table)
