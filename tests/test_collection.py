"""The folder of a suite, opened: what is there and what is not. Nothing is run; the folders are written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

import labkit as lab
from labkit import collection, manifest
from labkit.collection import FILE, Collection, is_collection
from labkit.errors import UsageError
from labkit.plan import Plan
from labkit.results import Run
from labkit.trial import SCHEMA
from labkit.workload import Workload, digest

WORKLOAD = Workload(rate=50, duration=0.1, subscribers=1)
FAILED = {"loss-sse-at-most-once-reset-1": {"error": "The link stopped."}}
SUITE = {
    "title": "Two, and one that was never begun",
    "tables": {"b": {"kind": "compare"}, "a": {"kind": "compare"}, "c": {"kind": "compare"}},
    "charts": {"both": {"overlay": {"A": "a", "B": "b"}}},
    "seed": 1,
    "repeat": 1,
    "quick": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite's folder with two runs that have no trials; in one of them, one trial failed."""
    place = tmp_path / "suite"
    for name, trials in (("a", {}), ("b", FAILED)):
        (place / name).mkdir(parents=True)
        about = manifest.made(Plan(WORKLOAD, ("sse",)), digest(WORKLOAD.schedule()), [])
        manifest.write(place / name, about | {"trials": trials})
    (place / "demonstrations").mkdir()
    say(place, {"schema": SCHEMA, "suite": SUITE, "parts": []})
    return place


def say(folder: Path, about: Any) -> None:
    (folder / FILE).write_text(about if isinstance(about, str) else json.dumps(about))


def test_a_collection_is_the_runs_of_a_suite_by_name_in_the_suites_order(folder: Path) -> None:
    found = Collection(str(folder))
    assert (list(found), len(found), found.title) == (["b", "a"], 2, SUITE["title"])
    assert found.charts == SUITE["charts"]
    assert [run.folder for run in found.values()] == [folder / "b", folder / "a"]
    assert all(isinstance(run, Run) for run in found.values())
    assert found["a"] is found["a"]
    assert repr(found) == "2 runs: b, a"
    assert "a" in found
    assert "c" not in found
    assert 5 not in found


@pytest.mark.parametrize("name", ["c", "demonstrations", ".", "d"])
def test_a_run_that_there_is_not_is_a_sentence_with_those_there_are(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"There is no run '{name}' in .*; choose from b, a\."):
        Collection(folder)[name]


@pytest.mark.parametrize("name", ["c", "demonstrations", "d"])
def test_asked_with_a_default_it_gives_that_where_there_is_no_run(folder: Path, name: str) -> None:
    found = Collection(folder)
    assert found.get(name) is None
    assert found.get(name, 5) == 5
    assert found.get("a", 5) is found["a"]


def test_what_failed_is_named_with_its_experiment(folder: Path) -> None:
    assert Collection(folder).errors == {"b/loss-sse-at-most-once-reset-1": "The link stopped."}
    say(folder, {"schema": SCHEMA, "suite": SUITE, "parts": [], "errors": {"tried": "No server answered."}})
    assert Collection(folder).errors == {
        "b/loss-sse-at-most-once-reset-1": "The link stopped.",
        "tried": "No server answered.",
    }


def test_a_folder_without_the_file_of_a_suite_is_none(folder: Path, tmp_path: Path) -> None:
    for place in (folder / "a", tmp_path / "nowhere", folder / FILE):
        assert not is_collection(place)
        with pytest.raises(UsageError, match=r"is no suite's folder: it has no suite\.json; give what"):
            Collection(place)
    assert is_collection(folder)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "{}",
        json.dumps({"schema": SCHEMA}),
        json.dumps({"schema": SCHEMA, "suite": SUITE}),
        json.dumps({"schema": SCHEMA, "suite": SUITE, "parts": 5}),
        json.dumps({"schema": SCHEMA, "suite": [], "parts": []}),
        json.dumps({"schema": SCHEMA, "suite": {**SUITE, "tables": 5}, "parts": []}),
        json.dumps({"schema": SCHEMA, "suite": {**SUITE, "tables": {"a": 5}}, "parts": []}),
        json.dumps({"schema": SCHEMA, "suite": {**SUITE, "charts": 5}, "parts": []}),
        json.dumps({"schema": SCHEMA, "suite": {"tables": {}}, "parts": []}),
    ],
)
def test_a_damaged_file_is_a_sentence_and_stays_as_it_is(folder: Path, text: str) -> None:
    say(folder, text)
    with pytest.raises(UsageError, match=r"suite\.json' is damaged \(.+\); restore it, or run the suite again\.$"):
        Collection(folder)
    assert (folder / FILE).read_text() == text


PART = {"seconds": 1.0, "elsewhere_cpu_s": 0.5}


@pytest.mark.parametrize(
    ("about", "wrong"),
    [
        ({"parts": [1]}, "parts[0] is 1"),
        ({"parts": [{**PART, "commit": 5}]}, "parts[0].commit is 5"),
        ({"parts": [{"seconds": 1.0}]}, "parts[0] lacks elsewhere_cpu_s"),
        ({"parts": [PART]}, "it has parts, and its machine lacks cores"),
        ({"machine": {"commit": 5}}, "machine.commit is 5"),
        ({"machine": None}, "machine is None"),
        ({"versions": None}, "versions is None"),
        ({"versions": {"python": 3}}, "versions['python'] is 3"),
        ({"argv": "reference"}, "argv is 'reference'"),
        ({"errors": []}, "errors is []"),
        ({"errors": {"tried": None}}, "errors['tried'] is None"),
        ({"suite": {**SUITE, "title": None}}, "suite.title is None"),
        ({"suite": {**SUITE, "tables": {"a": 5}}}, "suite.tables['a'] is 5"),
        ({"suite": {**SUITE, "charts": None}}, "suite.charts is None"),
    ],
)
def test_what_is_wrong_with_a_damaged_file_is_said(folder: Path, about: dict[str, Any], wrong: str) -> None:
    say(folder, {"schema": SCHEMA, "suite": SUITE, "parts": [], **about})
    with pytest.raises(UsageError) as caught:
        Collection(folder)
    fix = "restore it, or run the suite again."
    assert str(caught.value) == f"{str(folder / FILE)!r} is damaged ({wrong}); {fix}"


def test_a_file_that_is_nested_too_deeply_is_damaged(folder: Path) -> None:
    say(folder, json.dumps({"schema": SCHEMA, "suite": SUITE})[:-1] + ', "parts": ' + "[" * 100_000)
    with pytest.raises(UsageError, match="is damaged"):
        Collection(folder)


def test_a_file_that_is_no_text_is_damaged(folder: Path) -> None:
    (folder / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is damaged"):
        Collection(folder)


@pytest.mark.parametrize("schema", [1, SCHEMA + 1, "2", None])
def test_a_suite_of_another_schema_is_a_sentence_with_both(folder: Path, schema: object) -> None:
    say(folder, {"schema": schema, "suite": SUITE, "parts": []})
    with pytest.raises(UsageError, match=rf"has schema {schema!r}; this labkit reads {SCHEMA}: use its own version\."):
        Collection(folder)


def test_one_damaged_run_spoils_no_other(folder: Path) -> None:
    (folder / "a" / manifest.FILE).write_text("{")
    found = Collection(folder)
    assert found["b"].errors
    with pytest.raises(UsageError, match=r"manifest of .*a' is damaged"):
        _ = found["a"]


def test_the_reference_data_is_that_of_the_checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "HOME", folder.parent)
    folder.rename(folder.parent / "reference")
    assert lab.reference().title == SUITE["title"]


def test_where_there_is_no_reference_data_that_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "HOME", tmp_path)
    with pytest.raises(UsageError, match="There is no reference data here; run it from a checkout"):
        lab.reference()
