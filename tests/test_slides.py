"""Slides from the notebooks: one page that needs no network, one slide per heading, nothing of the notebook missing."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from nbconvert import HTMLExporter
from traitlets.config import Config

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """Slides, headings, what the page loads, and the text of all that is visible."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.slides: list[list[str]] = []
        self.loaded: list[str] = []
        self.styles = ""
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside.append(tag)
        if tag == "section":
            self.slides.append([])
        if tag in ("h1", "h2"):
            self.slides[-1].append(tag)
        if source := dict(attributes).get(LOADING.get(tag, "")):
            self.loaded.append(source)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            self.styles += data
        elif "script" not in self._inside:
            self.text += data


def page(path: Path) -> Page:
    config = Config()
    config.TemplateExporter.extra_template_basedirs = [str(FOLDER)]
    return Page(HTMLExporter(config=config, template_name="slides").from_filename(str(path))[0])


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def bare(text: str) -> str:
    return re.sub(r"\s+", "", html.unescape(text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestSlides:
    def test_nothing_is_loaded_from_anywhere(self, path: Path) -> None:
        made = page(path)
        assert all(source.startswith("data:") for source in made.loaded)
        assert "@import" not in made.styles
        assert not re.search(r"url\((?!\s*['\"]?data:)", made.styles)

    def test_each_heading_begins_a_slide_and_each_slide_begins_with_one(self, path: Path) -> None:
        headings = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
        wanted = ["h1" if mark == "#" else "h2" for mark in re.findall(r"^(##?) ", headings, re.MULTILINE)]
        assert page(path).slides == [[heading] for heading in wanted]

    def test_all_code_is_there_to_be_read(self, path: Path) -> None:
        text = bare(page(path).text)
        for cell in cells(path, "code"):
            assert bare("".join(cell["source"])) in text

    def test_every_picture_is_there(self, path: Path) -> None:
        outputs = json.dumps([cell["outputs"] for cell in cells(path, "code")])
        pictures = [source for source in page(path).loaded if source.startswith("data:image")]
        attached = sum(len(cell.get("attachments", {})) for cell in cells(path, "markdown"))
        assert len(pictures) == attached + len(re.findall(r"<img [^>]*src=\\\"data:image", outputs))


def test_a_heading_in_the_middle_of_a_cell_begins_a_slide_too(tmp_path: Path) -> None:
    path = tmp_path / "one.ipynb"
    source = "# One\n\nText.\n\n## Two\n\nMore.\n\n### Not a slide\n\n## Three"
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": source}
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert page(path).slides == [["h1"], ["h2"], ["h2"]]
