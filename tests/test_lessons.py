import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from test_charts import LOAD, OUTAGE, spec, texts, write_run

import labkit as lab
from labkit import lessons
from labkit.errors import UsageError
from labkit.guesses import compared
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee, Measure

MINUS = -1.0
QUESTION = "How long do subscribers wait?"
COMPARED = (Measure.LATENCY, Measure.BANDWIDTH, Measure.LOSS)
OFF = {"websocket": (1, 0.0), "webhook": (3, 0.3), "polling": (50, 0.6)}
"""Of each protocol: how slow it is in milliseconds, and the share it loses."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Hand-written recordings; at-most-once loses, and each protocol has another latency."""
    trials = {}
    for measure, protocol, guarantee in itertools.product(COMPARED, PROTOCOLS, list(Guarantee)[:2]):
        delay, lost = OFF.get(protocol, (2, 0.1))
        kept = 1 - lost if guarantee is Guarantee.AT_MOST_ONCE and measure is Measure.LOSS else 1
        trials[spec(measure, protocol, guarantee)] = {"delay_ms": delay, "keep": kept}
    return write_run(tmp_path_factory.mktemp("runs") / "whole", trials)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "predictions.jsonl"


@pytest.mark.parametrize(
    ("guess", "measured", "unit", "words"),
    [
        (1, 0.31, "ms", "you 1 ms, measured 0.31 ms: 3.2 times too slow"),
        (0.1, 100, "ms", "you 0.1 ms, measured 100 ms: 1,000 times too fast"),
        (300, 420, "bytes", "you 300 bytes, measured 420 bytes: 1.4 times too few"),
        (0, 4, "bytes", "you 0 bytes, measured 4 bytes: too few"),
        (3, 0, "deliveries", "you 3 deliveries, measured 0 deliveries: too high"),
        (0, 0, "bytes", "you 0 bytes, measured 0 bytes: exactly"),
        (10, 10.4, "ms", "you 10 ms, measured 10.4 ms: close"),
        (10, np.nan, "ms", "you 10 ms, no figure: too few arrived, or never"),
    ],
)
def test_a_guess_is_compared_in_words(guess, measured, unit, words):
    assert compared(guess, measured, unit) == words


def test_a_prediction_is_drawn_over_what_was_measured(run, file):
    guess = lessons.predict(QUESTION, "p50_ms", file=file, websocket=4, polling=55)
    chart = lessons.reveal(guess, run)
    latency = run.latency.query("guarantee == 'at-most-once'").set_index("protocol")["p50_ms"]
    assert f"WebSocket {compared(4, latency['websocket'], 'ms')}" in chart.alt
    assert f"Polling {compared(55, latency['polling'], 'ms')}" in chart.alt
    said = [text.get_text() for text in texts(chart)]
    assert QUESTION in said
    assert "Median latency, guarantee at-most-once" in said
    assert any(words.startswith("Median latency in ms, log scale  (← lower is better)") for words in said)
    assert chart.png() == lessons.reveal(QUESTION, run, file=file).png()


def test_marks_stand_where_the_values_are(run, file):
    guess = lessons.predict(QUESTION, "p50_ms", file=file, websocket=7, webhook=9)
    (axes,) = lessons.reveal(guess, run).axes
    ends = [[float(x) for x in line.get_xdata()] for line in axes.lines if len(line.get_xdata()) == 2]
    latency = run.latency.query("guarantee == 'at-most-once'").set_index("protocol")["p50_ms"]
    assert ends == [[7, latency["websocket"]], [9, latency["webhook"]]]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [float(line.get_xdata()[0]) for line in hollow] == [7, 9]


def test_only_a_prediction_made_before_the_run_ended_counts_as_one(run, file):
    """An older run does not say when it ended; its manifest was last written then, unless it was copied."""
    guess = lessons.predict(QUESTION, "p50_ms", file=file, websocket=5)
    manifest, made = run.folder / "manifest.json", datetime.fromisoformat(guess.made).timestamp()
    os.utime(manifest, (made + 5, made + 5))
    assert "Predicted after" not in lessons.reveal(guess, run).alt
    os.utime(manifest, (made - 5, made - 5))
    assert "Predicted after the run had ended." in lessons.reveal(guess, run).alt


@pytest.mark.parametrize(
    "values",
    [
        {"websocket": 0, "sse": 0},
        {"websocket": 0, "sse": 1e6},
        dict.fromkeys(PROTOCOLS, 123456.7),
        {"polling": 1e-6, "pubsub": 1e9},
    ],
)
@pytest.mark.parametrize("metric", ["p50_ms", "idle_up_per_s", "noticed_ms", "lost"])
def test_nothing_overlaps_or_is_clipped(run, file, values, metric):
    guess = lessons.predict("Why " * 40 + "?", metric, file=file, **values)
    chart = lessons.reveal(guess, run)
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(chart)]
    for text, box in boxes:
        assert 0 <= box.x0 < box.x1 <= chart.bbox.width, text
        assert 0 <= box.y0 < box.y1 <= chart.bbox.height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, other)


def test_a_protocol_that_was_not_run_keeps_its_row(tmp_path, file):
    small = write_run(tmp_path / "small", {spec(Measure.LATENCY, "sse", Guarantee.AT_MOST_ONCE): {}})
    guess = lessons.predict(QUESTION, "p50_ms", file=file, sse=1, polling=100)
    assert "Polling you 100 ms, no figure" in lessons.reveal(guess, small).alt
    with pytest.raises(UsageError, match=r"no latency trial of polling .*; run `labkit compare --protocol polling`"):
        lessons.reveal(replace(guess, values={"polling": 1.0}), small)
    with pytest.raises(UsageError, match="This run measured no loss; run `labkit compare`"):
        lessons.reveal(replace(guess, metric="noticed_ms"), small)
    with pytest.raises(UsageError, match="no frame 'folder'; choose from latency"):
        lessons.reveal(guess, small, frame="folder")
    with pytest.raises(UsageError, match="There is no guarantee 'twice'"):
        lessons.reveal(guess, small, guarantee="twice")


def test_of_several_outages_one_has_to_be_named(tmp_path, file):
    kinds = [replace(OUTAGE, kind=kind) for kind in ("close", "silent")]
    trials = {spec(Measure.LOSS, "sse", Guarantee.AT_MOST_ONCE, outage=outage): {"keep": 0.5} for outage in kinds}
    several = write_run(tmp_path / "several", trials)
    guess = lessons.predict("How many are lost?", "lost", file=file, sse=1)
    with pytest.raises(UsageError, match="This run has outage close, silent; say which: outage='close'"):
        lessons.reveal(guess, several)
    alt = lessons.reveal(guess, several, outage="silent").alt
    assert "outage silent" in alt
    assert "close" not in alt


def test_every_exercise_can_be_answered_wrongly_with_a_hint():
    found = lessons.exercises()
    assert len(found) >= 12
    for asked in found.values():
        cases = [hint["when"] for hint in asked.hints]
        assert asked.unit
        assert asked.explain.endswith(".")
        assert not re.search(r"\d+(\.\d+)? (ms|%)", asked.explain), "a measured figure is the run's to tell"
        if asked.kind == "number":
            assert {"low", "high"} <= set(cases)
            assert asked.query.by == ""
        else:
            assert asked.best in ("min", "max")
            assert asked.query.by == "protocol"
            assert cases[-1] == "other"
            assert set(cases[:-1]) <= set(asked.query.of)


@pytest.mark.parametrize("id", list(lessons.exercises()))
def test_an_exercise_is_shown_with_its_solution_folded_away(id):
    shown = lessons.exercise(id)._repr_markdown_()
    question, folded = shown.split("<details>")
    asked = lessons.exercise(id)
    assert asked.question in question
    assert asked.explain not in question
    assert asked.explain in folded


@pytest.mark.parametrize("id", [id for id, asked in lessons.exercises().items() if asked.query.frame in COMPARED])
def test_the_solution_that_is_folded_away_runs(run, id):
    code = re.search(r"```python\n(.*)\n```", lessons.exercise(id)._repr_markdown_())[1]
    assert len(eval(code, {"run": run})) >= 1


def test_a_number_is_judged_by_this_run(run):
    latency = run.latency.query("protocol == 'polling' and guarantee == 'at-least-once'")["p50_ms"].item()
    right = lessons.check("polling-wait", latency * 1.2, run)
    assert right.right
    assert str(right).startswith(f"Right. This machine measured {latency:.0f} ms; you said")
    assert lessons.exercise("polling-wait").explain in right._repr_markdown_()
    low, high = (lessons.check("polling-wait", latency * off, run) for off in (0.5, 2))
    assert not low.right
    assert str(low).startswith("Not yet. That is too low. Nobody tells the poller")
    assert str(high).startswith("Not yet. That is too high. The whole interval is the longest")
    assert f"{latency:.0f}" not in str(low) + str(high)


def test_a_share_is_one_figure_over_another(run):
    row = run.loss.query("protocol == 'webhook' and guarantee == 'at-most-once'").iloc[0]
    share = 100 * row["lost"] / row["owed"]
    assert 0 < share < 100
    assert lessons.check("webhook-lost", share, run).right
    assert lessons.check("webhook-lost", np.float64(share + 1), run).right
    assert not lessons.check("webhook-lost", row["lost"], run).right


def test_nothing_lost_is_zero_and_nothing_else(run):
    assert lessons.check("recovered-lost", 0, run).right
    assert not lessons.check("recovered-lost", 1, run).right


def test_a_protocol_is_judged_by_this_run(run):
    bandwidth = run.bandwidth.query("guarantee == 'at-most-once'").set_index("protocol")
    latency = lessons.exercise("duplex-round-trip")
    assert latency.query.frame == "duplex"
    with pytest.raises(UsageError, match="This run measured no duplex; run `labkit compare --duplex`"):
        lessons.check("duplex-round-trip", "websocket", run)
    assert bandwidth["setup_up"].nunique() == 1
    with pytest.raises(UsageError, match="tells no difference for 'setup-bytes'"):
        lessons.check("setup-bytes", "resthooks", run)


def test_names_and_titles_of_protocols_are_both_answers(run, monkeypatch):
    asked = lessons.exercise("producer-knew")
    query = replace(asked.query, metric="lost", of=("websocket", "webhook", "sse"))
    monkeypatch.setattr(lessons, "exercises", lambda: {"most": replace(asked, query=query, unit="lost")})
    for answer in ("webhook", " Webhook "):
        assert lessons.check("most", answer, run).right
    said = lessons.check("most", "Server-Sent Events", run)
    assert not said.right
    assert str(said).startswith("Not yet. Not Server-Sent Events here. The stream has one direction")
    assert "Webhook 300 lost" in str(lessons.check("most", "webhook", run))


@pytest.mark.parametrize(
    "answer", ["3", None, ..., True, float("nan"), float("inf"), [3], "webhook", {}, MINUS, np.ones(2)]
)
def test_an_answer_of_the_wrong_type_gets_a_sentence(run, answer):
    said = lessons.check("polling-wait", answer, run)
    assert not said.right
    if answer is not MINUS:
        assert "answer with a number in digits, without quotes (ms)." in said.text
    assert ("There is no answer yet" in said.text) == (answer is None or answer is ...)


@pytest.mark.parametrize("answer", ["gopher", "pubsub", None, ..., 3, ["webhook"], "", {}, np.ones(2)])
def test_an_answer_that_is_none_of_the_protocols_gets_the_list(run, answer):
    said = lessons.check("producer-knew", answer, write_losses(run))
    assert not said.right
    assert said.text.endswith("choose from 'websocket', 'webhook', 'sse'.")


def write_losses(run):
    """The same run, in which only the webhook's producer was told."""
    run.loss["rejected"] = [9 if name == "webhook" else 0 for name in run.loss["protocol"]]
    return run


@pytest.mark.parametrize("nothing", [None, 3, {}])
def test_without_a_run_the_sentence_says_how_to_make_one(nothing):
    with pytest.raises(UsageError, match=r"is no run; make one first, with run = lab.compare\(\)"):
        lessons.check("polling-wait", 50, nothing)


def test_a_run_can_be_named_by_its_folder(run, tmp_path):
    assert lessons.check("recovered-lost", 0, run.folder).right
    with pytest.raises(UsageError, match="is not a run folder"):
        lessons.check("recovered-lost", 0, str(tmp_path))


def test_an_exercise_that_is_not_there():
    with pytest.raises(UsageError, match="There is no exercise 'x'; choose from websocket-overhead,"):
        lab.lessons.exercise("x")


def test_a_learner_sees_the_sentence_and_no_traceback():
    script = "import labkit as lab; lab.lessons.check('sse-overhead', 15, None)"
    command = [sys.executable, "-m", "IPython", "--quick", "--colors=NoColor", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = (done.stdout + done.stderr).strip()
    assert said == "UsageError: None is no run; make one first, with run = lab.compare(), or open its folder."


def test_a_real_run_answers_what_it_can(tmp_path, file):
    guess = lessons.predict(QUESTION, "p50_ms", file=file, websocket=1, webhook=1)
    load = replace(LOAD, duration=0.3, subscribers=2)
    real = lab.compare(load, protocols=["websocket", "webhook"], measures="latency", outage=None, out=tmp_path / "run")
    assert "Predicted after" not in lessons.reveal(guess, real).alt
    frame = real.latency.query("guarantee == 'at-most-once'").set_index("protocol")["p50_ms"]
    assert lessons.check("post-or-stream", frame["webhook"] / frame["websocket"], real).right
    with pytest.raises(UsageError, match="This run measured no bandwidth"):
        lessons.check("sse-overhead", 15, real)


@pytest.mark.parametrize(("after_s", "late"), [(5, False), (-5, True)])
def test_a_run_that_was_copied_still_knows_when_it_ended(run, file, tmp_path, after_s, late):
    guess = lessons.predict(QUESTION, "p50_ms", file=file, websocket=5)
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    ended = datetime.fromisoformat(guess.made) + timedelta(seconds=after_s)
    manifest = json.loads((copy / "manifest.json").read_text()) | {"finished": ended.isoformat()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    os.utime(copy / "manifest.json", (0, 0) if after_s > 0 else None)
    assert ("Predicted after the run had ended." in lessons.reveal(guess, copy).alt) is late


@pytest.mark.parametrize("digits", [400, 5000])
def test_an_answer_beyond_any_float_gets_a_reply(run, digits):
    reply = lessons.check("recovered-lost", 10**digits, run)
    assert not reply.right
    assert "is no number: answer with a number in digits" in reply.text


@pytest.mark.parametrize("id", [[], None, {}])
def test_what_has_no_hash_is_no_exercise_either(id):
    with pytest.raises(UsageError, match="There is no exercise"):
        lessons.exercise(id)
