"""The album of a suite: which charts it has, by which names, and what of a chart of several cannot be."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import family, gone, wait_until
from PIL import Image
from suites import EVERY, FACT, demonstrate, write_suite

from labkit import album, charts, suite
from labkit.choice import CRITERIA
from labkit.cli import main
from labkit.collection import Collection
from labkit.errors import UsageError
from labkit.looks import Chart

NAMES = [
    *(f"comparison/{name}" for name in ("latency", "bandwidth", "loss", "matrix", "timeline")),
    *(f"broken/{name}" for name in ("loss", "matrix", "timeline", "timeline-silent")),
    *(f"alone/{name}" for name in ("loss", "matrix", "timeline", "sequence-websocket", "sequence-sse")),
    "answers/duplex",
    "rate/sweep",
    "two",
    "choose",
]
WEIGHTS = {"latency": 1, "reach": 1}
RANKING = {"cost": "cost", "loss": "loss", "weights": WEIGHTS}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return write_suite(tmp_path_factory.mktemp("suites") / "suite", EVERY)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Runs for a chart of several of each kind, and none of these charts."""
    return write_suite(tmp_path_factory.mktemp("suites") / "bare", ("cost", "loss", "before", "after", "seen"), {})


def several(found: Collection, table: Any, name: str = "odd") -> Chart:
    """The chart of several that such a table asks for."""
    asked = Collection(found.folder)
    asked.about["suite"]["charts"] = {name: table}
    return album.drawings(asked)[name]()


def refusal(found: Collection, table: Any, name: str = "odd") -> str:
    """The one sentence with which that chart is refused."""
    with pytest.raises(UsageError) as caught:
        several(found, table, name)
    text = str(caught.value)
    assert text.endswith(".")
    assert re.search(r"[.!?]\s", text) is None
    assert len(text) < 300 + len(str(found.folder))
    return text


def test_every_experiment_has_the_charts_of_what_it_measured_then_come_those_of_several(found: Collection) -> None:
    assert list(album.drawings(found)) == NAMES


def test_what_is_drawn_is_what_the_run_alone_would_draw(found: Collection) -> None:
    drawn = album.drawings(found)
    for name, draw in {"broken/loss": charts.loss, "rate/sweep": charts.sweep, "answers/duplex": charts.duplex}.items():
        assert drawn[name]().png() == draw(found[name.partition("/")[0]]).png()


def test_an_overlay_bears_the_labels_of_its_table(found: Collection) -> None:
    alt = album.drawings(found)["two"]().alt
    assert "Before" in alt
    assert "After" in alt


def test_a_ranking_weighs_what_its_table_says(found: Collection) -> None:
    alt = album.drawings(found)["choose"]().alt
    assert "What matters: latency 1, reach 2" in alt
    assert "WebSocket leads" in alt


def test_ways_are_those_of_the_demonstration_that_tried_them_whichever_comes_first(tmp_path: Path) -> None:
    made = write_suite(tmp_path / "suite", ("cost", "loss", "seen"), {"choose": RANKING})
    before = album.drawings(made)["choose"]().png()
    other = FACT._replace(demonstration="one_port", condition="ports", outcome=7.0)
    demonstrate(made.folder / "a-first", other)
    demonstrate(made.folder / "z-last", other, FACT._replace(protocol="sse"))
    assert album.drawings(Collection(made.folder))["choose"]().png() == before


def test_every_file_is_written_and_named_and_drawn_again_to_the_byte(found: Collection, tmp_path: Path, capsys) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    assert main(["charts", str(found.folder), "--out", str(once)]) == 1
    paths = [once / f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    printed = capsys.readouterr()
    assert printed.out.split() == [str(path) for path in paths]
    assert "labkit: later: it was not begun, so nothing of it is shown.\n" in printed.err
    assert sorted(path for path in once.rglob("*") if path.is_file()) == sorted(paths)
    album.save(Collection(found.folder), again)
    for path in paths:
        assert path.read_bytes() == (again / path.relative_to(once)).read_bytes(), path
    with Image.open(once / "two.png") as image:
        assert image.info["Description"] == album.drawings(found)["two"]().alt


def test_charts_go_into_the_suites_folder_where_no_other_is_named_and_are_no_experiment(tmp_path: Path, capsys) -> None:
    made = write_suite(tmp_path / "suite", ("rate",), {})
    for _ in range(2):
        assert main(["charts", str(made.folder)]) == 0
        assert capsys.readouterr().out.split() == [
            str(made.folder / "charts" / "rate" / f"sweep.{kind}") for kind in ("png", "svg")
        ]
    assert list(Collection(made.folder)) == ["rate"]


def test_a_suite_without_finished_experiments_has_no_charts(tmp_path: Path, capsys) -> None:
    made = write_suite(tmp_path / "suite", ("later", "seen"), {})
    assert album.drawings(made) == {}
    assert main(["charts", str(made.folder), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        "labkit: later: it was not begun, so nothing of it is shown.\n"
        f"labkit: `labkit reference --resume {made.folder}` goes on with what has not finished.\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "'odd'"),
        ({"cost": "cost"}, "'odd'"),
        ({"cost": "cost", "loss": "loss"}, "'odd'"),
        ({**RANKING, "wieghts": {}}, "'odd'"),
        ({"overlay": {"A": "before"}, "weights": WEIGHTS}, "'odd'"),
        ({"overlay": "before"}, "'odd'"),
        ({"overlay": ["before", "after"]}, "'odd'"),
        ({"overlay": {"A": 3, "B": "after"}}, "'odd'"),
        ({"overlay": {"A": ["before"]}}, "'odd'"),
        ({**RANKING, "cost": ["cost"]}, "'odd'"),
        ({**RANKING, "loss": {"loss": 1}}, "'odd'"),
        ({"overlay": {}}, "overlay"),
        ({"overlay": {"A": "before", "B": "nowhere"}}, "no run 'nowhere'"),
        ({**RANKING, "cost": "nowhere"}, "no run 'nowhere'"),
        ({**RANKING, "cost": "loss"}, "trials of one guarantee"),
        ({**RANKING, "weights": {}}, "All weights are 0"),
        ({**RANKING, "weights": {"speed": 1}}, "'speed'"),
        ({**RANKING, "weights": {"latency": "much"}}, "'much'"),
        ({**RANKING, "weights": 3}, "weights are 3"),
        (3, "'odd'"),
        ("overlay", "'odd'"),
        (["overlay"], "'odd'"),
        ({"x" * 1000: 1}, "'odd'"),
    ],
)
def test_a_chart_of_several_that_cannot_be_is_refused_in_a_sentence(bare: Collection, table: Any, said: str) -> None:
    assert said in refusal(bare, table)


@pytest.mark.parametrize("name", ["../outside", "/outside", "in/side", "", "..", "a.b"])
def test_a_chart_is_called_as_a_file_may_be(bare: Collection, name: str) -> None:
    assert repr(name) in refusal(bare, {"overlay": {"A": "before", "B": "after"}}, name)


def test_a_ranking_without_demonstrations_names_them(tmp_path: Path) -> None:
    made = write_suite(tmp_path / "suite", ("cost", "loss"), {})
    assert "needs demonstrations" in refusal(made, RANKING)
    demonstrate(made.folder / "ports", FACT._replace(demonstration="one_port"))
    assert "needs demonstrations" in refusal(made, RANKING)


def test_damaged_demonstrations_are_named(tmp_path: Path) -> None:
    made = write_suite(tmp_path / "suite", ("cost", "loss", "seen"), {})
    (made.folder / "seen" / "demonstrations.json").write_text("{")
    assert "The demonstrations in" in refusal(made, RANKING)


def test_what_cannot_be_drawn_is_said_and_the_others_are_drawn(tmp_path: Path, capsys) -> None:
    made = write_suite(tmp_path / "suite", ("rate", "before", "after"), {"odd": {"overlay": {"A": "gone"}}})
    assert main(["charts", str(made.folder), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "sweep.svg" in [Path(path).name for path in printed.out.split()]
    assert not (tmp_path / "out" / "odd.png").exists()
    assert "labkit: odd: no such chart could be drawn: There is no run 'gone'" in printed.err


def test_a_suite_that_was_stopped_shows_what_there_is_and_says_what_is_lacking(tmp_path: Path, capsys) -> None:
    made = write_suite(
        tmp_path / "suite", ("rate", "before", "later"), {"two": {"overlay": {"A": "before", "B": "later"}}}
    )
    path = made.folder / "rate" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "planned": 99}))
    assert main(["charts", str(made.folder), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert any(re.fullmatch(r"labkit: rate: \d+ of its 99 trials have finished\.", line) for line in said)
    assert any("'later' was not begun; `labkit reference --resume" in line for line in said)
    assert (tmp_path / "out" / "rate" / "sweep.png").exists()


@pytest.mark.parametrize("file", ["spec.json", "manifest.json"])
def test_a_damaged_experiment_is_named_and_the_others_are_drawn(tmp_path: Path, capsys, file: str) -> None:
    made = write_suite(tmp_path / "suite", ("rate", "answers"), {})
    next((made.folder / "rate").rglob(file)).write_text("{")
    assert main(["charts", str(made.folder), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert [Path(path).name for path in printed.out.split()] == ["duplex.png", "duplex.svg"]
    assert re.search(r"labkit: rate: nothing of it is shown: .* is damaged", printed.err)


def test_damaged_demonstrations_are_lacking(tmp_path: Path) -> None:
    made = write_suite(tmp_path / "suite", ("rate", "seen"), {})
    (made.folder / "seen" / "demonstrations.json").write_text("[1]")
    assert "are damaged or missing" in album.readable(made)[1]["seen"]


def test_a_file_of_the_users_is_kept_and_nothing_is_drawn(tmp_path: Path, capsys) -> None:
    made = write_suite(tmp_path / "suite", ("rate",), {})
    mine = tmp_path / "out" / "rate" / "sweep.svg"
    mine.parent.mkdir(parents=True)
    mine.write_text("<svg/>")
    assert main(["charts", str(made.folder), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"labkit: {str(mine)!r} is no chart of labkit, and is kept as it is; choose another folder.\n"
    )
    assert [path.name for path in mine.parent.iterdir()] == ["sweep.svg"]
    assert mine.read_text() == "<svg/>"


def test_charts_of_another_run_beside_the_new_ones_are_named_and_left(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    for name, runs in (("one", ("rate", "answers")), ("two", ("rate",))):
        made = write_suite(tmp_path / name, runs, {})
        charts.save(made["rate"], out)
        if name == "one":
            charts.save(made["answers"], out)
    (out / "mine.png").write_bytes(b"no chart")
    assert main(["charts", str(made["rate"].folder), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "charts of another run lie beside these, and were left as they are" in said
    assert "duplex.png" in said
    assert "mine.png" not in said


def test_a_file_where_the_folder_would_be_is_one_sentence(tmp_path: Path, capsys) -> None:
    made = write_suite(tmp_path / "suite", ("rate",), {})
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["charts", str(made.folder), "--out", str(out)]) == 2
        assert re.fullmatch(
            r"labkit: The folder '.*' cannot be made \(.*\); choose another\.\n", capsys.readouterr().err
        )
    assert (tmp_path / "file").read_text() == "mine"


def test_every_chart_of_the_reference_suite_is_of_runs_that_it_has() -> None:
    asked = suite.load()
    for table in asked.charts.values():
        named = [*table.get("overlay", {}).values(), *(table[key] for key in ("cost", "loss") if key in table)]
        assert named
        assert set(named) <= set(asked.plans())
        assert set(table.get("weights", {})) <= set(CRITERIA)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process draws all")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_process_that_draws_half_ends_with_the_other(
    found: Collection, tmp_path: Path, how: signal.Signals
) -> None:
    command = [sys.executable, "-m", "labkit", "charts", str(found.folder), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: family(process.pid) or process.poll() is not None)
            (other,) = family(process.pid)
            process.send_signal(how)
            assert process.wait(10) == (130 if how is signal.SIGINT else -how)
            wait_until(lambda: gone(other))
        finally:
            process.kill()
