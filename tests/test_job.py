"""A job: charts fill in as trials finish, a cancelled one keeps what is done, and nothing is left of it."""

import threading
import time

import psutil
import pytest

from labkit.api import planned
from labkit.job import Job, State
from labkit.results import Run
from labkit.trial import Measure
from labkit.workload import Workload

SMALL = Workload(rate=50, duration=0.2, subscribers=1)


def started(job):
    thread = threading.Thread(target=job.run)
    thread.start()
    return thread


def test_charts_are_drawn_as_trials_finish(tmp_path):
    seen = []
    plan = planned(SMALL, ("sse", "polling"), "at-most-once", ("latency", "loss"), "close")
    job = Job(plan, tmp_path / "run", lambda: seen.append((job.progress.finished, dict(job.pictures))))
    job.run()
    assert job.state is State.DONE
    assert set(job.pictures) == {Measure.LATENCY, Measure.LOSS}
    after_one = next(pictures for finished, pictures in seen if finished == 1)
    assert "Server-Sent Events" in after_one[Measure.LATENCY].alt
    assert "Polling" not in after_one[Measure.LATENCY].alt
    assert "no finished loss trial" in after_one[Measure.LOSS].alt
    assert "Polling" in job.pictures[Measure.LOSS].alt
    assert (tmp_path / "run/latency.csv").is_file()
    assert job.progress.left_s() == 0


def test_drawing_never_falls_into_a_trial_that_measures_time(tmp_path, monkeypatch):
    plan = planned(SMALL, ("sse", "polling", "websocket"), "at-most-once", "latency", None)
    job = Job(plan, tmp_path / "run", lambda: None)
    begun, drawn = [], []
    monkeypatch.setattr(job.progress, "begun", lambda trial: begun.append(time.monotonic()))
    monkeypatch.setattr(job.progress, "ended", lambda trial, error: None)
    draw = job._draw

    def watched(measure):
        started = time.monotonic()
        draw(measure)
        drawn.append((started, time.monotonic()))

    monkeypatch.setattr(job, "_draw", watched)
    job.run()
    assert len(begun) == len(drawn) == 3
    assert all(end <= begins for (_, end), begins in zip(drawn, begun[1:], strict=False))


def test_cancelling_keeps_what_is_done_and_leaves_no_process(tmp_path, until):
    plan = planned(Workload(rate=50, duration=2, subscribers=1), ("sse", "polling"), "at-most-once", "latency", None)
    job = Job(plan, tmp_path / "run", lambda: None)
    thread = started(job)
    until(lambda: job.progress.finished == 1)
    job.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert job.state is State.CANCELLED
    assert [found.trial.protocol for found in Run(tmp_path / "run").recordings] == ["sse"]
    assert "Server-Sent Events" in job.pictures[Measure.LATENCY].alt
    until(lambda: not psutil.Process().children())


def test_a_job_cancelled_before_it_began_runs_nothing(tmp_path):
    job = Job(planned(SMALL, "sse"), tmp_path / "run", lambda: None)
    job.cancel()
    job.run()
    assert job.state is State.CANCELLED
    assert job.progress.finished == 0


def test_two_jobs_of_one_process_never_run_at_one_time(tmp_path, until):
    plan, spans = planned(SMALL, ("sse", "polling"), "at-most-once", "latency", None), []

    class Timed(Job):
        def _carry_out(self):
            began = time.monotonic()
            super()._carry_out()
            spans.append((began, time.monotonic()))

    jobs = [Timed(plan, tmp_path / f"run{number}", lambda: None) for number in range(2)]
    threads = [started(job) for job in jobs]
    until(lambda: sorted(job.waits for job in jobs) == [False, True])
    for thread in threads:
        thread.join()
    assert [job.state for job in jobs] == [State.DONE, State.DONE]
    (_, first_ended), (second_began, _) = sorted(spans)
    assert first_ended <= second_began


def test_a_job_that_waits_for_its_turn_can_be_cancelled(tmp_path, until):
    plan = planned(Workload(rate=50, duration=3, subscribers=1), "sse", "at-most-once", "latency", None)
    first, second = (Job(plan, tmp_path / f"run{number}", lambda: None) for number in range(2))
    running = started(first)
    until(lambda: not first.waits)
    waiting = started(second)
    second.cancel()
    waiting.join(2)
    assert second.state is State.CANCELLED
    assert first.state is State.RUNNING
    first.cancel()
    running.join()


def test_a_job_whose_end_fails_says_so_and_is_over(tmp_path, monkeypatch):
    def full(run):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "save", full)
    job = Job(planned(SMALL, "sse", "at-most-once", "latency", None), tmp_path / "run", lambda: None)
    job.run()
    assert job.state is State.FAILED
    assert "No space left" in job.reason


def test_what_nobody_foresaw_is_said_too_and_not_swallowed(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "save", lambda run: 1 / 0)
    job = Job(planned(SMALL, "sse", "at-most-once", "latency", None), tmp_path / "run", lambda: None)
    with pytest.raises(ZeroDivisionError):
        job.run()
    assert job.state is State.FAILED
    assert "ZeroDivisionError" in job.reason


def test_cancelling_does_not_wait_for_processes_that_are_still_starting(tmp_path, until):
    plan = planned(SMALL, guarantees="at-least-once", measures="bandwidth")
    job = Job(plan, tmp_path / "run", lambda: None)
    thread = started(job)
    until(lambda: "is under way" in job.progress.html())
    job.cancel()
    thread.join()
    assert job.state is State.CANCELLED
    until(lambda: not psutil.Process().children(recursive=True))
    assert not [
        found
        for found in psutil.process_iter(["name", "ppid"])
        if found.info["name"] == "nats-server" and found.info["ppid"] == 1
    ]


def test_what_cannot_be_run_is_a_sentence(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine").write_text("precious")
    job = Job(planned(SMALL, "sse"), tmp_path / "run", lambda: None)
    job.run()
    assert job.state is State.FAILED
    assert "already holds something" in job.reason


def test_a_trial_that_fails_is_named_and_the_rest_is_kept(tmp_path, monkeypatch, mute_broker):
    monkeypatch.setenv("LABKIT_NATS", f"nats://127.0.0.1:{mute_broker}")
    plan = planned(SMALL, ("sse", "pubsub"), "at-most-once", "latency", None)
    job = Job(plan, tmp_path / "run", lambda: None)
    job.run()
    assert job.state is State.DONE
    assert [*job.progress.errors] == ["latency-pubsub-at-most-once-1"]
    assert "Failed, and so not shown: latency-pubsub" in job.pictures[Measure.LATENCY].alt
