"""The dashboard, driven as a page drives it: by clicks and traits. That a browser shows it is tested there."""

import base64
import html
import io
import re
import threading
import time
import zipfile
from types import SimpleNamespace

import psutil
import pytest

import labkit as lab
from labkit.errors import UsageError
from labkit.results import Run
from labkit.trial import Measure
from labkit.widgets import OVERLAID


@pytest.fixture
def board(tmp_path, until):
    """A dashboard with the smallest run there is; what it started has ended when the test has."""
    made = small(lab.dashboard(tmp_path / "runs"))
    yield made
    made._on_cancel(None)
    until(lambda: not made._busy)
    made._worker.shutdown()
    until(lambda: not psutil.Process().children())


def small(board):
    controls = board._controls
    for name, box in controls._protocols.items():
        box.value = name == "sse"
    controls._guarantees["at-least-once"].value = False
    for name, value in {"rate": "50", "duration": "0.3", "subscribers": "2"}.items():
        controls._numbers[name].control.value = value
    return board


def said(board):
    return html.unescape(re.sub("<[^>]*>", "", board._status.value)).strip()


def done(board, until):
    """Runs what is chosen, to its end."""
    before = len(board._history.options)
    board._run.click()
    until(lambda: len(board._history.options) > before and not board._history.disabled, 40)


def test_one_click_gives_three_charts_with_words(board, until):
    done(board, until)
    assert said(board) == "Done: 3 trials."
    for view, title in ((Measure.LATENCY, "Latency"), (Measure.BANDWIDTH, "Bandwidth"), (Measure.LOSS, "Disconnect")):
        board._view.value = view
        assert board._picture.alt.startswith(title)
        assert "Server-Sent Events" in board._picture.alt
        assert board._picture.png.startswith(b"\x89PNG")


def test_while_it_runs_it_says_how_far_it_is_and_cannot_be_started_twice(board, until):
    board._controls._numbers["duration"].control.value = "2"
    board._run.click()
    assert re.fullmatch(r"0 of 3 trials, about \d+ s left\.", said(board))
    assert (board._run.disabled, board._cancel.disabled, board._history.disabled) == (True, False, True)
    job = board._job
    board._on_run(None)
    assert board._job is job
    until(lambda: "is under way" in board._meter.value)


def test_cancel_keeps_what_is_done(board, until):
    board._controls._numbers["duration"].control.value = "1.5"
    board._run.click()
    until(lambda: said(board).startswith("1 of 3"))
    board._cancel.click()
    until(lambda: said(board).startswith("Cancelled"))
    assert said(board) == "Cancelled; the 1 of 3 trials that were finished are kept."
    until(lambda: board._history.options)
    assert len(Run(board._history.options[0][1]).recordings) == 1
    until(lambda: not board._run.disabled)


def test_nothing_can_be_chosen_before_the_history_has_the_run_that_ended(board, until, monkeypatch):
    done(board, until)
    waits, found = threading.Event(), board._runs
    monkeypatch.setattr(board, "_runs", lambda: waits.wait(30) and found())
    board._run.click()
    board._cancel.click()
    try:
        until(lambda: said(board).startswith("Cancelled"))
        assert (board._run.disabled, board._history.disabled, board._export.disabled) == (True, True, True)
        assert board._cancel.disabled
    finally:
        waits.set()
    until(lambda: not board._history.disabled)
    assert not board._run.disabled


def test_a_handler_returns_at_once(board):
    board._controls._numbers["duration"].control.value = "2"
    for act in (board._run.click, board._cancel.click, lambda: setattr(board._view, "value", Measure.LOSS)):
        began = time.perf_counter()
        act()
        assert time.perf_counter() - began < 1


def test_what_is_wrong_keeps_it_from_running_and_from_being_shown_as_a_call(board):
    board._controls._numbers["rate"].control.value = "none"
    assert board._run.disabled
    assert board._call.value == ""
    board._on_run(None)
    assert board._job is None


def test_the_call_it_shows_gives_the_run_it_makes(board, until, tmp_path):
    done(board, until)
    mine, given = Run(board._history.options[0][1]), {}
    stub = SimpleNamespace(Workload=lab.Workload, Timings=lab.Timings)
    stub.compare = lambda *args, **named: lab.compare(*args, **named, out=tmp_path / "pasted", drawn=False)
    exec(board._call.value.removeprefix("import labkit as lab\n"), {"lab": stub}, given)
    for name in ("workload", "digest", "outages", "timings", "conditions"):
        assert given["run"].manifest[name] == mine.manifest[name]
    assert set(given["run"].manifest["trials"]) == set(mine.manifest["trials"])


def test_runs_are_laid_over_each_other_and_outlive_the_kernel(board, until, tmp_path):
    done(board, until)
    board._controls._numbers["rate"].control.value = "100"
    done(board, until)
    again = lab.dashboard(tmp_path / "runs")
    assert again._history.options == board._history.options
    assert [label.split("  ")[1].split(",")[0] for label, _ in again._history.options] == ["100/s", "50/s"]
    again._history.value = tuple(folder for _, folder in again._history.options)
    until(lambda: again._picture.png)
    assert again._view.value == OVERLAID
    assert "100" in again._picture.alt
    again._history.value = (again._history.options[1][1],)
    again._view.value = Measure.LATENCY
    until(lambda: "50 events/s" in again._picture.alt)
    again._worker.shutdown()


def test_what_lies_in_the_folder_and_is_no_run_is_left_alone(tmp_path):
    for name, text in (("foreign", '{"schema": 99, "trials": {}}'), ("broken", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    assert lab.dashboard(tmp_path)._history.options == ()


def test_export_offers_tables_and_charts_as_one_file(board, until):
    done(board, until)
    board._export.click()
    until(lambda: "Download" in board._link.value, 30)
    data = re.search(r'href="data:application/zip;base64,([^"]+)"', board._link.value)[1]
    names = set(zipfile.ZipFile(io.BytesIO(base64.b64decode(data))).namelist())
    wanted = {"manifest.json", "latency.csv", "bandwidth.csv", "loss.csv", "charts/latency.png", "charts/loss.svg"}
    (folder,) = board._history.value
    assert {f"{type(board._out)(folder).name}/{name}" for name in wanted} <= names
    assert folder in board._link.value


def test_export_of_several_runs_has_them_all_and_the_overlay(board, until):
    done(board, until)
    done(board, until)
    board._history.value = tuple(folder for _, folder in board._history.options)
    board._export.click()
    until(lambda: "Download" in board._link.value, 30)
    data = re.search(r'href="data:application/zip;base64,([^"]+)"', board._link.value)[1]
    names = zipfile.ZipFile(io.BytesIO(base64.b64decode(data))).namelist()
    assert "overlay.svg" in names
    assert sum(name.endswith("/latency.csv") for name in names) == 2


def test_another_choice_leaves_nothing_of_the_run_before(board, until):
    done(board, until)
    done(board, until)
    board._export.click()
    until(lambda: "Download" in board._link.value, 30)
    board._history.value = (board._history.options[1][1],)
    assert (board._status.value, board._meter.value, board._link.value) == ("", "", "")


def test_a_run_that_was_cancelled_before_anything_finished_is_not_remembered(board, until):
    board._run.click()
    board._cancel.click()
    until(lambda: not board._busy)
    assert said(board) == "Cancelled before a trial had finished."
    until(lambda: not board._run.disabled)
    assert board._history.options == ()
    assert board._export.disabled


@pytest.mark.parametrize("out", [None, 5, ""])
def test_a_folder_that_cannot_be_is_refused(out):
    with pytest.raises(UsageError, match="name the folder"):
        lab.dashboard(out)


def test_a_run_folder_that_is_gone_is_said_in_a_sentence(board, until):
    done(board, until)
    (_, folder) = board._history.options[0]
    (board._out / "moved").mkdir()
    type(board._out)(folder).rename(board._out / "moved" / "run")
    board._export.click()
    until(lambda: "is not a run folder" in said(board))
    assert "⚠" in said(board)
