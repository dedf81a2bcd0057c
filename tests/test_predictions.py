import json
import os
from datetime import UTC, datetime

import numpy as np
import pytest

from labkit.errors import UsageError
from labkit.predictions import newest, predict

QUESTION = "How long do subscribers wait?"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "predictions.jsonl"


def test_a_prediction_is_one_line_with_its_time(file):
    before = datetime.now(UTC)
    guess = predict(QUESTION, "p50_ms", file=file, websocket=1, polling=100.5)
    (line,) = file.read_text().splitlines()
    assert json.loads(line) == {
        "question": QUESTION,
        "metric": "p50_ms",
        "values": {"websocket": 1, "polling": 100.5},
        "made": guess.made,
    }
    assert before <= datetime.fromisoformat(guess.made) <= datetime.now(UTC)
    assert repr(guess).endswith(f": {QUESTION} Median latency in ms: WebSocket 1, Polling 100.")
    assert "\n" not in str(guess)


def test_a_figure_of_a_frame_may_be_a_prediction(file):
    assert predict(QUESTION, "p50_ms", file=file, sse=np.int64(3)) == newest(QUESTION, file)


def test_it_goes_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guess = predict(QUESTION, "p50_ms", sse=2)
    assert newest(QUESTION, tmp_path / "predictions.jsonl") == guess


def test_nothing_is_overwritten_and_the_newest_of_a_question_counts(file):
    predict(QUESTION, "p50_ms", file=file, sse=1)
    first = file.read_bytes()
    last = predict(QUESTION, "p50_ms", file=file, sse=2)
    predict("Another?", "p50_ms", file=file, sse=3)
    assert file.read_bytes().startswith(first)
    assert newest(QUESTION, file) == last


def test_a_last_line_without_an_end_stays_a_line_of_its_own(file):
    predict(QUESTION, "p50_ms", file=file, sse=1)
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    predict(QUESTION, "p50_ms", file=file, sse=2)
    assert len(file.read_text().splitlines()) == 2


def test_a_notebook_shows_a_question_as_text(file):
    assert "<b>" not in predict("<b>?", "p50_ms", file=file, sse=1)._repr_html_()


@pytest.mark.parametrize(
    ("question", "metric", "values", "words"),
    [
        (QUESTION, "p50_ms", {"websocket": "fast"}, "websocket='fast' is no number; give ms, such as websocket=1."),
        (QUESTION, "p50_ms", {"websocket": None}, "is no number"),
        (QUESTION, "p50_ms", {"websocket": True}, "is no number"),
        (QUESTION, "p50_ms", {"websocket": float("nan")}, "is no number"),
        (QUESTION, "p50_ms", {"websocket": float("inf")}, "is no number"),
        (QUESTION, "setup_up", {"sse": -1}, "sse=-1 is below zero; give bytes, such as sse=1."),
        (QUESTION, "p50_ms", {"gopher": 1}, "There is no protocol 'gopher'; choose from websocket,"),
        (QUESTION, "p50_ms", {}, "Nothing is predicted yet; give ms for one protocol or more, such as websocket=1."),
        (QUESTION, "speed", {"sse": 1}, "There is no metric 'speed'; choose from p50_ms,"),
        (QUESTION, ["p50_ms"], {"sse": 1}, "There is no metric"),
        (" ", "p50_ms", {"sse": 1}, "needs a question in words"),
        (3, "p50_ms", {"sse": 1}, "needs a question in words"),
    ],
)
def test_what_is_no_prediction_gets_a_sentence_and_no_line(file, question, metric, values, words):
    with pytest.raises(UsageError) as error:
        predict(question, metric, file=file, **values)
    assert words in str(error.value)
    assert not file.exists()


@pytest.mark.parametrize(
    "line",
    [
        b'{"question": "Q", "met',
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"question": "Q"}',
        b'{"question": "Q", "metric": "p50_ms", "values": {"sse": "x"}, "made": "2026-01-01T00:00:00+00:00"}',
        b'{"question": "Q", "metric": "p50_ms", "values": [1], "made": "2026-01-01T00:00:00+00:00"}',
        b'{"question": "Q", "metric": "p50_ms", "values": {"sse": 1}, "made": "yesterday"}',
        b'{"question": "Q", "metric": "p50_ms", "values": {"sse": 1}, "made": "2026-01-01T00:00:00"}',
        b'{"question": "Q", "metric": "p50_ms", "values": {"sse": 1}, "made": 5}',
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_touched(file, line):
    predict(QUESTION, "p50_ms", file=file, sse=1)
    file.write_bytes(file.read_bytes() + b"\n" + line + b"\n")
    before = file.read_bytes()
    for use in (lambda: predict(QUESTION, "p50_ms", file=file, sse=2), lambda: newest(QUESTION, file)):
        with pytest.raises(
            UsageError, match=r"Line 3 of .* is no prediction; mend or delete that line, or name another"
        ):
            use()
    assert file.read_bytes() == before


def test_a_question_nobody_predicted_is_told_apart(file):
    with pytest.raises(UsageError, match=r"has no prediction for 'Why\?'; make one with lab.lessons.predict first"):
        newest("Why?", file)


def test_a_place_that_is_no_file_is_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        predict(QUESTION, "p50_ms", file=tmp_path, sse=1)
    with pytest.raises(UsageError, match="cannot be written"):
        predict(QUESTION, "p50_ms", file=tmp_path / "not" / "there", sse=1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_beyond_any_float_is_a_sentence(file, digits):
    with pytest.raises(UsageError, match=r"^sse=.{1,60} is no number; give ms, such as sse=1\.$"):
        predict(QUESTION, "p50_ms", file=file, sse=10**digits)
    assert not file.exists()


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"question": "Q", "metric": "lost", "made": "2026-01-01T00:00Z", "values": {"sse": 1%s}}' % ("0" * 400),
    ],
    ids=["deep", "long"],
)
def test_a_line_that_cannot_be_taken_in_is_named(file, line):
    file.write_text(line + "\n")
    for use in (lambda: predict(QUESTION, "p50_ms", file=file, sse=2), lambda: newest(QUESTION, file)):
        with pytest.raises(UsageError, match=r"Line 1 of .* is no prediction"):
            use()


@pytest.mark.parametrize("name", [None, 3, "a\0b", "\ud800", b"bytes", []])
def test_what_no_file_can_be_called_is_a_sentence(name):
    for use in (lambda: predict(QUESTION, "p50_ms", file=name, sse=2), lambda: newest(QUESTION, name)):
        with pytest.raises(UsageError, match="which no file can be called; name one"):
            use()


def test_a_question_that_cannot_be_printed_is_not_recorded(file):
    with pytest.raises(UsageError, match="has half a character in it; leave that out") as caught:
        predict("Why \ud83d?", "p50_ms", file=file, sse=1)
    str(caught.value).encode()
    assert not file.exists()
