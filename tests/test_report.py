"""The page of a run or a suite, read as a browser reads it: by an HTML parser that knows nothing of the lab."""

import io
import itertools
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image
from test_charts import LOAD, spec, write_run
from test_sweeps import planned
from test_sweeps import swept as write_sweep

from labkit import album, charts, claims, report
from labkit.cli import main
from labkit.collection import Collection
from labkit.intervals import figures, metric, summary
from labkit.packing import pack
from labkit.protocols import PROTOCOLS
from labkit.results import Run
from labkit.sheet import MEANING
from labkit.sweeps import VIEWS
from labkit.trial import COMPARED, SCHEMA, Guarantee, Measure

VOID = {"meta", "img", "br"}
DELAYS_MS = {"sse": (1.0, 1.4, 1.1), "webhook": (2.0, 2.0, 2.0), "polling": (30.0, 31.0, 39.0)}
"""Of each protocol's repeats."""


@dataclass
class Element:
    """A tag, its attributes, and the text and the elements in it."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Element"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self, *tags: str) -> list["Element"]:
        own = [self] if not tags or self.tag in tags else []
        return own + [found for child in self.children for found in child.all(*tags)]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


class Reader(HTMLParser):
    """Builds the tree. Every element that is not void has to be closed, in order; nothing else is put right."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open = [Element("")]
        self.feed(html)
        self.close()
        assert [element.tag for element in self.open] == [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.texts.append(data)


def read(folder: Path) -> Element:
    return Reader(report.page(folder)).open[0]


def pictures(page: Element) -> list[str]:
    return [image.attributes["alt"] for image in page.all("img")]


def captions(page: Element) -> list[str]:
    return [caption.text for caption in page.all("caption")]


def downloads(page: Element) -> dict[str, bytes]:
    """What a click on each saves, by the name of the file."""
    links = [link.attributes for link in page.all("a") if "download" in link.attributes]
    assert len({link["download"] for link in links}) == len(links)
    return {link["download"]: urlopen(link["href"]).read() for link in links}


def cells(page: Element) -> dict[tuple[str, str, str, str], str]:
    """(caption, heading of the column, heading of the group, protocol) -> what stands there."""
    found = {}
    for table in page.all("table"):
        if not table.all("caption"):
            continue
        (caption,), (head, *_) = table.all("caption"), table.all("tr")
        columns = [each.text for each in head.all("th")][1:]
        for group in table.all("tbody"):
            (heading, *rows) = group.all("tr")
            for row in rows:
                (protocol,) = row.all("th")
                there = [cell.text for cell in row.all("td")]
                wide = len(there) // len(columns)
                for column, parts in zip(
                    columns, [there[at : at + wide] for at in range(0, len(there), wide)], strict=True
                ):
                    found[caption.text, column, heading.text, protocol.text] = " ".join(filter(None, parts))
    return found


def trials(repeats: int, protocols: tuple[str, ...] = tuple(DELAYS_MS)) -> dict[Any, dict[str, Any]]:
    """Latency, bandwidth and loss, with either guarantee; SSE without recovery loses a tenth."""
    found = {}
    for measure, protocol, guarantee, repeat in itertools.product(
        COMPARED, protocols, (Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE), range(1, repeats + 1)
    ):
        keep = 0.9 if (protocol, guarantee) == ("sse", Guarantee.AT_MOST_ONCE) else 1.0
        how = {"delay_ms": DELAYS_MS[protocol][repeat - 1], "keep": keep}
        found[spec(measure, protocol, guarantee, repeat)] = how
    return found


def made(folder: Path, trials: dict[Any, dict[str, Any]], errors: dict[str, str] | None = None) -> Run:
    """A run folder of trials, which says itself what was offered."""
    write_run(folder, trials, errors)
    change(folder, workload=LOAD.to_json())
    return Run(folder)


def swept(folder: Path) -> Run:
    """A sweep over the rate, of two protocols."""
    write_sweep(folder, "rate", {trial: {"delay_ms": 2.0} for trial in planned("rate", protocols=("sse", "webhook"))})
    change(folder, workload=LOAD.to_json())
    return Run(folder)


def change(folder: Path, name: str = "manifest.json", **keys: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three repeats, and the tables that a run saves."""
    found = made(tmp_path_factory.mktemp("runs") / "repeated", trials(3))
    found.save()
    return found


@pytest.fixture(scope="module")
def page(run: Run) -> Element:
    return read(run.folder)


def suite(folder: Path, title: str = "What is what?", tables: tuple[str, ...] = (), **about: Any) -> Path:
    """A suite's folder: a comparison, a sweep, and one of the claims' experiments laid over itself."""
    folder.mkdir()
    made(folder / "comparison", trials(1)).save()
    swept(folder / "rate").save()
    both = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE
    made(folder / "messages", {spec(Measure.BANDWIDTH, "websocket", each): {} for each in both}).save()
    several = {"both": {"overlay": {"Before": "messages", "After": "messages"}}}
    of = {name: {"kind": "compare"} for name in ("comparison", "rate", "messages", *tables)}
    said = {"title": title, "tables": of, "charts": several, "seed": 7, "repeat": 1, "quick": False}
    said |= about.pop("suite", {})
    (folder / "suite.json").write_text(json.dumps({"schema": SCHEMA, "suite": said, "parts": [], **about}))
    return folder


def test_it_is_a_page_with_language_viewport_title_and_headings_in_order(page: Element) -> None:
    (root,) = page.all("html")
    assert root.attributes["lang"] == "en"
    named = {meta.attributes.get("name"): meta.attributes.get("content", "") for meta in page.all("meta")}
    assert "width=device-width" in named["viewport"]
    assert named["generator"].startswith("labkit ")
    assert page.all("title")[0].text == page.all("h1")[0].text == report.TITLE
    levels = [int(each.tag[1]) for each in page.all("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_chart_is_there_with_its_alternative_text_and_as_a_figure(run: Run, page: Element) -> None:
    drawn = [draw(run) for draw in charts.drawings(run, every=False).values()]
    assert sorted(pictures(page)) == sorted(chart.alt for chart in drawn)
    assert all(len(figure.all("img")) == 1 and figure.all("figcaption") for figure in page.all("figure"))
    assert len(page.all("figure")) == len(drawn)
    for image in page.all("img"):
        drawing = ElementTree.fromstring(urlopen(image.attributes["src"]).read())
        about = drawing.find(".//{http://purl.org/dc/elements/1.1/}description")
        assert about is not None
        assert about.text == image.attributes["alt"]


def test_a_large_drawing_is_a_picture_of_twice_the_width(
    run: Run, monkeypatch: pytest.MonkeyPatch, page: Element
) -> None:
    monkeypatch.setattr(report, "LARGE", 0)
    found = read(run.folder)
    assert pictures(found) == pictures(page)
    for image in found.all("img"):
        with Image.open(io.BytesIO(urlopen(image.attributes["src"]).read())) as picture:
            assert picture.width == 2 * int(image.attributes["width"])
            assert abs(picture.height - 2 * int(image.attributes["height"])) <= 2


def test_every_anchor_leads_somewhere(page: Element) -> None:
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = [link.attributes["href"][1:] for link in page.all("a") if link.attributes["href"].startswith("#")]
    assert len(targets) > 6
    assert set(targets) <= set(ids)
    labels = [each.attributes["aria-labelledby"] for each in page.all() if "aria-labelledby" in each.attributes]
    assert set(labels) <= set(ids)


def test_it_loads_nothing_and_runs_nothing(page: Element) -> None:
    for element in page.all():
        assert element.tag not in ("script", "link", "iframe", "object", "base")
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert element.attributes.get(name, "#").startswith(("data:", "#"))
    (style,) = page.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text


def test_what_is_wider_than_a_screen_scrolls_in_a_region_that_the_keyboard_reaches(page: Element) -> None:
    regions = [element for element in page.all("div") if element.attributes.get("role") == "region"]
    assert all(region.attributes["tabindex"] == "0" and region.attributes["aria-label"] for region in regions)
    for tag in ("img", "table"):
        assert len([found for region in regions for found in region.all(tag)]) == len(page.all(tag))


def test_downloads_are_the_files_of_the_run_byte_for_byte(run: Run, page: Element) -> None:
    found = downloads(page)
    assert set(found) == {"latency.csv", "bandwidth.csv", "loss.csv", "figures.csv", "manifest.json"}
    for name in set(found) - {"figures.csv"}:
        assert found[name] == (run.folder / name).read_bytes()
    read_again = pd.read_csv(io.BytesIO(found["figures.csv"]), keep_default_na=False, na_values=[""])
    assert list(read_again["figure"]) == list(summary(run)["figure"])
    assert read_again["median"].to_numpy() == pytest.approx(summary(run)["median"].to_numpy(), nan_ok=True)


def test_tables_say_what_the_summary_says(run: Run, page: Element) -> None:
    found, seen = cells(page), 0
    for row in summary(run).itertuples():
        about = metric(row.figure)
        words = f"{row.guarantee}, {MEANING[Guarantee(row.guarantee)]}" + (f" · {row.outage}" if row.outage else "")
        column = f"{about.label}{about.unit}, {about.better} is better"
        title = {"latency": "Latency", "bandwidth": "Bandwidth", "loss": "Disconnect-loss"}[row.measure]
        said = f"{title}: the median of up to 3 repeats, and its 95% interval"
        key = next(
            (
                key
                for key in found
                if key[0].startswith(said) and key[1:] == (column, words, PROTOCOLS[row.protocol].title)
            ),
            None,
        )
        low, median, high = (f"{value:,.{about.digits}f}" for value in (row.low, row.median, row.high))
        if key is None:
            assert summary(run).query("figure == @row.figure and measure == @row.measure")["median"].isna().all()
            continue
        assert found[key] == ("–" if pd.isna(row.median) else median if low == high else f"{median} ({low} to {high})")
        seen += 1
    assert seen == len(found)
    assert any("(" in words for words in found.values())


def test_a_figure_that_some_repeats_lack_says_so(tmp_path: Path) -> None:
    some = {trial: how | {"keep": 0.05 if trial.repeat == 2 else 1.0} for trial, how in trials(3).items()}
    one = {trial: how for trial, how in some.items() if trial.protocol != "webhook" or trial.repeat == 1}
    run = made(tmp_path / "run", one)
    known = figures(run, Measure.LATENCY).query("protocol == 'sse' and guarantee == 'at-least-once'")["p99_ms"]
    assert list(known.isna()) == [False, True, False]
    found = {key[1:]: words for key, words in cells(read(run.folder)).items() if key[0].startswith("Latency")}
    words = "at-least-once, recovery switched on"
    assert found["99th percentilems, lower is better", words, "Server-Sent Events"].endswith("(not in every repeat)")
    assert found["Median latencyms, lower is better", words, "Webhook"].endswith("(one repeat)")


def test_the_first_lines_give_the_lowest_and_the_highest_and_what_may_be_chance(page: Element) -> None:
    cards = {each.all("h2")[0].text: each for each in page.all("section") if each.attributes.get("class") == "card"}
    assert list(cards) == ["Latency", "Bandwidth", "Disconnect-loss"]
    ends = [each.text for each in cards["Latency"].all("dd")]
    assert ends[2:] == ["6.05 ms Server-Sent Events", "170.50 ms Polling"]
    assert [each.text for each in cards["Bandwidth"].all("dd")][-1].endswith(" bytes all 3")
    assert [each.text for each in cards["Disconnect-loss"].all("dd")][-1] == "0.00 % all 3"


def test_of_overlapping_intervals_either_may_be_the_lowest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DELAYS_MS, "webhook", (1.2, 1.3, 1.5))
    page = read(made(tmp_path / "run", trials(3)).folder)
    assert "6.05 ms Server-Sent Events or Webhook" in [each.text for each in page.all("dd")]


def test_a_run_without_repeats_says_once_that_it_has_no_intervals(tmp_path: Path) -> None:
    page = read(made(tmp_path / "run", trials(1)).folder)
    assert "Each trial ran once." in page.text
    assert all("one trial each" in words for words in captions(page))
    assert not [words for words in cells(page).values() if "(" in words]
    assert "Intervals rest on" not in page.text


def test_a_sweep_has_its_question_as_title_and_a_group_of_rows_for_each_value(tmp_path: Path) -> None:
    run = swept(tmp_path / "run")
    run.save()
    page = read(run.folder)
    assert page.all("h1")[0].text == VIEWS["rate"].title
    assert pictures(page) == [charts.sweep(run).alt]
    groups = list(dict.fromkeys(key[2] for key in cells(page)))
    assert groups[:3] == [f"at-most-once, out of the box · {value} events/s" for value in (50, 200, 400)]
    assert downloads(page)["sweep.csv"] == (run.folder / "sweep.csv").read_bytes()
    assert not [each for each in page.all("h2") if "textbooks" in each.text]


def test_requests_have_a_chart_and_a_table(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {spec(Measure.DUPLEX, "sse"): {}})
    page = read(run.folder)
    assert pictures(page) == [charts.duplex(run).alt]
    assert captions(page)[0].startswith("Requests and their answers: one trial each")


def test_a_suite_has_a_section_for_each_experiment_and_charts_of_several(tmp_path: Path) -> None:
    folder = suite(tmp_path / "suite")
    page = read(folder)
    drawn = [draw() for draw in album.drawings(Collection(folder)).values()]
    assert sorted(pictures(page)) == sorted(chart.alt for chart in drawn)
    assert page.all("h1")[0].text == "What is what?"
    headings = [each.text for each in page.all("h2", "h3")]
    assert headings[headings.index("Results") + 1 : headings.index("Several runs together")] == ["Comparison", "Rate"]
    assert "Messages" in [each.text for each in page.all("summary")]
    found = downloads(page)
    assert found["suite.json"] == (folder / "suite.json").read_bytes()
    for name in ("comparison/loss.csv", "rate/sweep.csv", "messages/bandwidth.csv", "messages/manifest.json"):
        assert found[name.replace("/", "-")] == (folder / name).read_bytes()


def test_claims_are_listed_as_they_were_judged_and_those_not_measured_are_counted(tmp_path: Path) -> None:
    folder = suite(tmp_path / "suite")
    page, judged = read(folder), claims.read(folder)
    shown = [each.text for each in page.all("li") if "verdict" in [c.attributes.get("class") for c in each.children]]
    rows = judged.frame[judged.frame["verdict"] != "not measured"]
    assert 0 < len(rows) < len(judged.frame)
    assert len(shown) == len(rows)
    for row in rows.itertuples():
        words = " ".join(row.claim.split())
        assert [f"{claims.VERDICTS[row.verdict][0]} {row.verdict}" in each for each in shown if words in each] == [True]
    assert judged.counts in page.text


def test_without_a_claim_that_the_run_answers_there_is_no_word_of_claims(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {spec(Measure.LATENCY, "sse"): {}})
    assert set(claims.read(run).frame["verdict"]) > {"not measured", "cited"}  # what the smallest clients answer
    assert not [each.text for each in read(run.folder).all("h2") if "textbooks" in each.text]


def test_what_was_not_finished_or_failed_is_said(tmp_path: Path) -> None:
    folder = suite(tmp_path / "suite", tables=("later",), suite={"quick": True, "charts": {"gone": {"overlay": {}}}})
    made(folder / "comparison", {}, {"latency-pubsub-at-most-once-1": "the broker <died>"})
    change(folder / "rate", planned=99)
    said = [each.text for each in read(folder).all("li")]
    assert "later: it was not begun, so nothing of it is shown." in said
    assert any(each.startswith("rate: 12 of its 99 trials have finished") for each in said)
    assert "comparison/latency-pubsub-at-most-once-1: the broker <died>." in said
    assert any(each.startswith("gone: no such chart could be drawn") for each in said)
    assert any(each.startswith("A quick run:") for each in said)


def test_a_run_of_which_nothing_finished_has_a_page(tmp_path: Path) -> None:
    page = read(made(tmp_path / "run", {}, {"latency-sse-at-most-once-1": "it broke"}).folder)
    assert pictures(page) == captions(page) == []
    assert "No trial of it has finished." in page.text
    assert "latency-sse-at-most-once-1: it broke." in [each.text for each in page.all("li")]


def test_an_inconclusive_trial_is_a_caveat(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {spec(Measure.LOSS, "sse"): {"keep": 0.5, "drained": False}})
    assert list(run.loss["verdict"]) == ["inconclusive"]
    assert any(each.text.startswith("In 1 of 1 trials something was still") for each in read(run.folder).all("li"))


def test_machine_versions_time_and_load_are_those_of_the_manifest(tmp_path: Path) -> None:
    run = made(tmp_path / "run", trials(1))
    part = {
        "started": "2026-11-27T08:00:10.1+00:00",
        "finished": "2026-11-27T08:12:00+00:00",
        "seconds": 100.0,
        "load_before": [0.5, 0.25, 0.125],
        "load_after": [1.5, 0.75, 0.5],
        "elsewhere_cpu_s": 60.0,
    }
    machine = {"cpu": "A <fast> one", "cores": 2, "memory_gib": 8.0, "system": "Plan 9", "commit": "a" * 40}
    change(
        run.folder,
        machine=machine,
        parts=[part],
        versions={"python": "3.99", "uvloop": None},
        argv=["compare", "--out", "/home/somebody/run"],
        seed=11,
    )
    page = read(run.folder)
    facts = [each.text for each in page.all("dd")]
    assert "2026-11-27 08:00 to 08:12 UTC" in facts
    assert "A <fast> one, 2 cores, 8.0 GiB of memory, Plan 9" in facts
    assert "0.5, 0.25, 0.125 before and 1.5, 0.75, 0.5 after it, over 1, 5 and 15 minutes" in facts
    assert "used 30.0 % of the CPU meanwhile" in facts
    assert "python 3.99" in facts
    assert "a" * 12 in facts
    assert "labkit compare --out run" in facts
    assert f"{len(run.recordings)} finished; each once, seed 11" in facts
    assert "Other programs used 30% of the CPU meanwhile." in [each.text for each in page.all("li")]


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    title = """<script>alert("1")</script> & 'more' </title>"""
    page = read(suite(tmp_path / "suite", title))
    assert page.all("h1")[0].text == page.all("title")[0].text == title
    assert page.all("script") == []


def test_the_same_folder_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    for name in ("once", "again"):
        report.save(run.folder, tmp_path / name / "report.html")
    assert (tmp_path / "once/report.html").read_bytes() == (tmp_path / "again/report.html").read_bytes()


def test_a_packed_run_has_the_same_charts_and_the_same_figures(run: Run, page: Element, tmp_path: Path) -> None:
    pack(run.folder, tmp_path / "packed")
    packed = read(tmp_path / "packed")
    assert pictures(packed) == pictures(page)
    assert cells(packed) == cells(page)


class TestCommand:
    """`labkit report RUN --out FILE`."""

    def test_it_writes_the_page_into_a_new_folder_and_again_over_itself(self, run: Run, tmp_path: Path, capsys) -> None:
        out = tmp_path / "new" / "page.html"
        for _ in range(2):
            assert main(["report", str(run.folder), "--out", str(out)]) == 0
            assert capsys.readouterr().out == f"{out}\n"
        assert out.read_text(encoding="utf-8") == report.page(run.folder)
        assert [path.name for path in out.parent.iterdir()] == ["page.html"]

    @pytest.mark.parametrize("content", ["", "<!DOCTYPE html><title>Mine</title>", "x" * 1000 + report.MARK.decode()])
    def test_a_file_that_is_no_report_is_kept(self, run: Run, tmp_path: Path, capsys, content: str) -> None:
        out = tmp_path / "mine.html"
        out.write_text(content)
        assert main(["report", str(run.folder), "--out", str(out)]) == 2
        said = f"labkit: {str(out)!r} is no report of labkit, and is kept as it is; choose another name.\n"
        assert capsys.readouterr().err == said
        assert out.read_text() == content

    def test_a_folder_is_no_page(self, run: Run, tmp_path: Path, capsys) -> None:
        assert main(["report", str(run.folder), "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert (
            said == f"labkit: {str(tmp_path)!r} is a folder; name a file in it, as {str(tmp_path / 'report.html')!r}.\n"
        )

    def test_a_folder_of_which_a_file_is_in_the_way_is_one_sentence(self, run: Run, tmp_path: Path, capsys) -> None:
        (tmp_path / "file").write_text("")
        assert main(["report", str(run.folder), "--out", str(tmp_path / "file" / "report.html")]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(r"labkit: The folder '.*' cannot be made \(.*\); choose another\.\n", said)

    @pytest.mark.parametrize("name", ["manifest.json", "suite.json"])
    def test_what_is_no_run_is_the_sentence_of_the_run_and_nothing_is_written(
        self, tmp_path: Path, capsys, name: str
    ) -> None:
        (tmp_path / name).write_text("{")
        out = tmp_path / "report.html"
        assert main(["report", str(tmp_path), "--out", str(out)]) == 2
        assert "is damaged" in capsys.readouterr().err
        assert not out.exists()

    def test_a_damaged_experiment_is_named_in_the_page_and_by_the_command(self, tmp_path: Path, capsys) -> None:
        folder = suite(tmp_path / "suite")
        next(folder.glob("comparison/trials/*/spec.json")).write_text("{")
        assert main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 1
        assert re.search(r"labkit: comparison: nothing of it is shown: .* is damaged", capsys.readouterr().err)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert re.search(r"<b>comparison:</b> nothing of it is shown: The trial .* is damaged", page)
        assert str(tmp_path) not in page
