"""The form of every notebook; that they run is shown by nbval in the same test run."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
CHECKED = "NBVAL_CHECK_OUTPUT"


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def tags(cell: dict[str, Any]) -> list[str]:
    found: list[str] = cell["metadata"].get("tags", [])
    return found


def outputs(path: Path) -> str:
    return json.dumps([cell["outputs"] for cell in cells(path, "code")])


ALL = """
    00_side_by_side 01_websocket 02_webhook 03_rest_hooks 04_pubsub 05_sse 06_when_it_breaks
    07_cost_and_scale 08_claims 09_choose 10_dashboard 11_reference
"""
FIGURE = re.compile(r"\d[\d.,]*\s?(ms|µs|us|s|seconds?|bytes?|B|[kKMG]i?B|%|times)(?!\w)")
"""A number with a unit, as a measurement would be written. Minutes are the plan of a lesson."""


(DASHBOARD,) = [path for path in NOTEBOOKS if path.stem == "10_dashboard"]


def test_these_are_the_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ALL.split()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestForm:
    def test_it_opens_with_questions_objectives_and_minutes(self, path: Path) -> None:
        opening = source(cells(path, "markdown")[0])
        for heading in ("Questions", "Objectives", "minutes"):
            assert heading in opening

    def test_it_closes_with_key_points_and_roads_not_taken(self, path: Path) -> None:
        closing = source(cells(path, "markdown")[-1])
        assert "Key points" in closing
        assert "Roads not taken" in closing

    def test_learners_predict_before_they_run_and_see_it_drawn_over_the_result(self, path: Path) -> None:
        code = [source(cell) for cell in cells(path, "code")]
        said = [number for number, text in enumerate(code) if "lessons.predict(" in text]
        shown = [number for number, text in enumerate(code) if "lessons.reveal(" in text]
        assert said
        assert shown
        assert min(said) < min(shown)

    def test_no_figure_in_its_prose_is_typed(self, path: Path) -> None:
        """What was measured is formatted into the text by a cell; what was chosen stands in one."""
        prose = [source(cell) for cell in cells(path, "markdown")]
        assert [match[0] for text in prose for match in FIGURE.finditer(text)] == []

    def test_no_cell_is_longer_than_ten_lines(self, path: Path) -> None:
        long = [source(cell) for cell in cells(path, "code") if len(source(cell).splitlines()) > 10]
        assert long == []

    def test_it_is_committed_executed_without_errors(self, path: Path) -> None:
        code = [cell for cell in cells(path, "code") if source(cell).strip()]
        # What only showed a progress bar is stored without it, and so without a count.
        assert all(cell["execution_count"] for cell in code if "progress" not in cell["metadata"].get("tags", []))
        kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
        assert "error" not in kinds
        assert kinds

    def test_checked_cells_have_a_stored_output(self, path: Path) -> None:
        checked = [cell for cell in cells(path, "code") if CHECKED in source(cell)]
        assert checked
        assert all(cell["outputs"] for cell in checked)

    def test_every_picture_has_an_alternative_text(self, path: Path) -> None:
        pictures = re.findall(r"<img [^>]*>", outputs(path))
        assert pictures
        assert all(re.search(r'alt=\\"[^\\"]{40,}', picture) for picture in pictures)
        assert "image/png" not in outputs(path).replace("data:image/png", "")

    def test_it_is_small_and_names_no_path_of_a_machine(self, path: Path) -> None:
        text = path.read_text()
        assert len(text) < 1_000_000
        assert not re.search(r'"/(home|root|tmp|work|Users|usr)/', text)


def test_the_app_shows_the_dashboard_and_nothing_else() -> None:
    """`labkit app` leaves out what is tagged as a lesson."""
    shown = [cell for kind in ("code", "markdown") for cell in cells(DASHBOARD, kind) if "lesson" not in tags(cell)]
    assert [source(cell) for cell in shown] == ["import labkit as lab\n\nlab.dashboard()"]


def test_who_has_no_kernel_sees_the_dashboard_in_a_picture_that_says_what_it_shows() -> None:
    (shown,) = [cell for cell in cells(DASHBOARD, "markdown") if "attachments" in cell]
    assert re.search(r"!\[[^\]]{40,}\]\(attachment:dashboard.png\)", source(shown))
    picture = base64.b64decode(shown["attachments"]["dashboard.png"]["image/png"])
    assert picture == (DASHBOARD.parents[1] / "docs/dashboard.png").read_bytes()
