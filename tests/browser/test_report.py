"""The report as its reader sees it: opened from a file, on a desk and on a phone, and on paper."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_report import made, suite, trials

from browser.lab import KEPT, shot
from labkit import report

if TYPE_CHECKING:
    from playwright.sync_api import Page

FITS = "document.documentElement.scrollWidth <= window.innerWidth"
BROKEN = "[...document.images].filter((image) => !image.complete || image.naturalWidth < 500).map((image) => image.alt)"
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module", params=["run", "suite"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a run with repeats, and one of a suite."""
    folder = tmp_path_factory.mktemp("reports")
    place = folder / request.param
    if request.param == "suite":
        suite(place)
    else:
        made(place, trials(3)).save()
    report.save(place, folder / f"report-{request.param}.html")
    return folder / f"report-{request.param}.html"


@pytest.mark.parametrize("size", SIZES)
def test_it_fits_shows_every_chart_and_asks_for_nothing(saved: Path, page: "Page", size: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.goto(saved.as_uri())
    assert page.evaluate(FITS)
    assert page.locator("img").count() > 4
    assert page.evaluate(BROKEN) == []
    assert [url for url in asked if not url.startswith("data:")] == [saved.as_uri()]
    shot(page, f"{saved.stem}-{size}")
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.evaluate(FITS)
    KEPT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=KEPT / f"{saved.stem}-{size}-whole.png", full_page=True)


def test_a_chart_on_a_phone_keeps_a_legible_size_and_scrolls_by_keyboard(saved: Path, page: "Page") -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(saved.as_uri())
    region = page.get_by_role("region").filter(has=page.locator("img")).first
    assert page.locator("img").first.bounding_box()["width"] >= 900
    assert region.bounding_box()["width"] <= 390
    region.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_a_click_saves_the_file_as_it_is(saved: Path, page: "Page") -> None:
    page.goto(saved.as_uri())
    links = page.locator("a[download$='latency.csv'], a[download$='manifest.json']")
    assert links.count() >= 2
    for number in range(2):
        name = str(links.nth(number).get_attribute("download"))
        with page.expect_download() as download:
            links.nth(number).click()
        assert download.value.suggested_filename == name
        files = (saved.parent / saved.stem.removeprefix("report-")).rglob(name.rpartition("-")[2])
        assert download.value.path().read_bytes() in [file.read_bytes() for file in files]


def test_it_prints(saved: Path, page: "Page") -> None:
    page.goto(saved.as_uri())
    KEPT.mkdir(parents=True, exist_ok=True)
    paper = page.pdf(path=KEPT / f"{saved.stem}.pdf", format="A4")
    assert paper.startswith(b"%PDF-")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})  # A4 less its margins
    tall: list[Any] = page.evaluate("[...document.images].map((image) => image.getBoundingClientRect().height)")
    assert max(tall) < 1000
    assert page.evaluate(FITS)
    assert not page.locator("a[download]").first.is_visible()
