"""What the README shows is what data/reference holds: its table, its pictures to the byte, its setting in prose."""

import importlib.util
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import labkit as lab
from labkit import album, suite
from labkit.collection import Collection

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DATA = ROOT / "data" / "reference"
PINS = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def script() -> Any:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "readme.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> Collection:
    return lab.reference()


def test_the_table_has_the_figures_of_the_reference_data(reference: Collection) -> None:
    made = script()
    table = README.split(made.BEGIN)[1].split(made.END)[0].strip()
    assert table == made.figures(reference)
    assert table.count("\n") == 1 + 7 * 2


@pytest.mark.parametrize("name", script().PICTURES)
def test_a_picture_is_redrawn_from_the_reference_data_byte_for_byte(reference: Collection, name: str) -> None:
    """On the pinned matplotlib; another draws a little differently."""
    if version("matplotlib") != PINS["matplotlib"]:
        pytest.skip(f"the pictures were drawn by matplotlib {PINS['matplotlib']}")
    source = Path(script().PICTURES[name])
    chart = album.drawings(reference)[str(source.with_suffix(""))]()
    drawn = chart.svg() if source.suffix == ".svg" else chart.png()
    assert drawn == (ROOT / "docs" / name).read_bytes()
    assert f"](docs/{name})" in README


def test_the_prose_gives_the_setting_of_the_reference_data(reference: Collection) -> None:
    load, plan = reference["comparison"].manifest["workload"], reference.about["suite"]
    prose = " ".join(README.split())
    said = re.search(r"(\d+) events of (\d+) bytes a second go to (\w+) subscribers for (\w+) seconds", prose)
    assert said
    words = {"ten": 10, "three": 3}
    assert (float(said[1]), int(said[2])) == (load["rate"], load["size"])
    assert (words[said[3]], words[said[4]]) == (load["subscribers"], load["duration"])
    assert plan["repeat"] == 5
    assert "five times over" in prose
    (outage,) = reference["comparison"].manifest["outages"]
    assert (outage["kind"], outage["at"], outage["lasts"]) == ("reset", load["duration"] / 3, load["duration"] / 6)


def test_what_the_lab_itself_costs_is_as_measured() -> None:
    assert (DATA / "floor.md").read_text().strip() in README


def test_the_reference_is_one_whole_run_of_the_suite_as_it_is() -> None:
    found = lab.reference()
    asked = suite.load()
    assert found.errors == {}
    assert not found.about["suite"]["quick"]
    assert found.about["suite"]["tables"] == json.loads(json.dumps(asked.to_json()))["tables"]
    for name, plan in asked.plans().items():
        assert len(found[name].recordings) == len(plan.trials()) == found[name].manifest["planned"]
    assert {part["dirty"] for part in found.about["parts"]} == {False}
    for path in DATA.rglob("*.json"):
        assert not re.search(r'"/|[A-Z]:\\\\', path.read_text()), path


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 5_000_000
