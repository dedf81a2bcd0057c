"""The instructor's page: plans that fit their time, no notebook forgotten, no figure typed."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
PAGE = (FOLDER / "INSTRUCTOR.md").read_text()
NAMES = re.findall(r"^\*\*(\d\d_\w+)\.\*\*", PAGE, re.MULTILINE)


def section(heading: str) -> str:
    """What stands under a heading, up to the next one."""
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(("plan", "length"), [("90 minutes", 90), ("Half a day", 240)])
def test_the_minutes_of_a_plan_add_up(plan: str, length: int) -> None:
    assert sum(map(int, re.findall(r"^\| (\d+) \|", section(plan), re.MULTILINE))) == length


def test_there_are_questions_for_every_notebook() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} <= set(NAMES)
    assert all(f"`{name}`" in PAGE.split("## The day before")[0] for name in NAMES)


def test_the_parts_of_a_notebook_that_a_plan_names_are_there() -> None:
    named = re.findall(r"`(\d\d)`, (.+) \|", section("90 minutes"))
    assert named
    for number, parts in named:
        for path in FOLDER.glob(f"{number}_*.ipynb"):
            for part in re.findall(r"\*([^*]+)\*", parts):
                assert f"## {part}" in path.read_text()


def test_no_measured_figure_is_typed() -> None:
    assert not re.search(r"\d\s?(ms|µs|kB|MB|bytes|%)", PAGE)
