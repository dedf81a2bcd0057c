"""The lab's own claims are well formed; a real run answers what it can, and says of the rest why not."""

import json
import shutil
from pathlib import Path

import pytest

import labkit as lab
from labkit import api, claims, demos, disk
from labkit.cli import main
from labkit.errors import UsageError
from labkit.evidence import ADDED, Evidence, clients
from labkit.experiment import Experiment
from labkit.figures import COLUMNS
from labkit.protocols import PROTOCOLS
from labkit.query import listed
from labkit.trial import Measure

FRAMES = {"demonstrations": set(demos.Fact._fields)} | {
    str(measure): set(COLUMNS[measure].split()) | set(ADDED) for measure in Measure
}
EXPERIMENTS, CLAIMS = claims.load()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A claims run that was stopped after its first two experiments."""
    out = tmp_path_factory.mktemp("claims")
    claims.experiment("sizes", out)
    claims.experiment("both-ways", out, quick=True)
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "run"
    load = lab.Workload(rate=50, duration=0.4, subscribers=2)
    timings = lab.Timings(heartbeat=0.3, poll=0.1)
    lab.compare(load, protocols=["webhook", "resthooks"], measures="bandwidth", timings=timings, out=out, drawn=False)
    return out


def by_id(found: claims.Verdicts) -> dict[str, str]:
    return dict(zip(found.frame["id"], found.frame["verdict"], strict=True))


def test_there_is_a_claim_of_every_kind() -> None:
    assert {claim.protocol for claim in CLAIMS} == set(claims.HEADINGS) - {"polling", "longpolling"}
    assert len(CLAIMS) >= 33


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_asks_for_columns_that_there_are(claim: claims.Claim) -> None:
    assert claim.claim.endswith(".")
    assert claim.why.endswith(".")
    for figure in claim.figures:
        query = figure.query
        if query.frame in FRAMES:
            assert {query.metric, *filter(None, [query.by]), *query.where} <= FRAMES[query.frame]
            told = EXPERIMENTS[figure.experiment].arguments
            there = told.get("protocols", list(PROTOCOLS))
            assert {*listed(query.of), *listed(query.against)} <= {*([there] if isinstance(there, str) else there)}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_and_is_asked(name: str) -> None:
    asked = {each for claim in CLAIMS for figure in claim.figures for each in (figure.experiment, figure.baseline)}
    assert name in asked
    if EXPERIMENTS[name].demonstrates:
        assert set(EXPERIMENTS[name].arguments["names"]) <= set(demos.DEMONSTRATIONS)
    else:
        EXPERIMENTS[name].plan(quick=True).check()


def test_a_run_answers_what_it_measured_and_says_of_the_rest_that_it_did_not(ran: Path) -> None:
    found = claims.read(ran)
    verdicts = by_id(found)
    assert verdicts["websocket-low-overhead"] == "supported"
    assert verdicts["websocket-both-at-once"] == "supported"
    assert verdicts["websocket-every-browser"] == "cited"
    assert verdicts["choose-resthooks"] == "refuted"
    assert verdicts["push-saves-bytes"] == "not measured"
    row = found.frame.set_index("id").loc["push-saves-bytes"]
    assert row["figures"] == (
        f"Not measured in this run: The experiment 'rates' is not in it; run `labkit claims --out {ran}` again."
    )


def test_the_table_is_made_for_a_terminal_and_for_a_notebook(ran: Path) -> None:
    found = claims.read(ran)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= claims.WIDTH
    assert "  ✓ supported     The overhead of a message is very low." in lines
    assert lines[-1] == found.counts
    assert found.counts.startswith(f"{len(CLAIMS)} claims: ")
    page = found._repr_html_()
    assert page.count("<tr>") - len(set(found.frame["protocol"])) - 1 == len(CLAIMS)
    assert "✓ supported" in page


def test_the_table_of_some_protocols(ran: Path) -> None:
    found = claims.read(ran)
    assert set(found.of("sse", "choosing").frame["protocol"]) == {"sse", "choosing"}
    with pytest.raises(UsageError, match="no claims of 'gopher'; choose from general, websocket"):
        found.of("gopher")


def test_demonstrations_are_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [demos.Fact("any_server", "webhook", "one", 1.0), demos.Fact("any_server", "webhook", "two", 0.0)]
    monkeypatch.setitem(demos.DEMONSTRATIONS, "any_server", lambda: iter(facts))
    for name in set(demos.DEMONSTRATIONS) - {"any_server"}:
        monkeypatch.setitem(demos.DEMONSTRATIONS, name, lambda: iter(()))
    assert list(claims.experiment("demonstrations", tmp_path)["outcome"]) == [1.0, 0.0]
    verdicts = by_id(claims.read(tmp_path))
    assert verdicts["webhook-any-server"] == "it depends"
    assert verdicts["websocket-passes"] == "not measured"
    assert verdicts["sse-no-authorization"] == "cited"
    (tmp_path / "demonstrations" / demos.FILE).write_text("[{}]")
    figures = claims.read(tmp_path).frame.set_index("id")["figures"]["webhook-any-server"]
    assert "are damaged or missing" in figures


def test_a_finished_experiment_is_not_run_again(ran: Path) -> None:
    with pytest.raises(UsageError, match="sizes' is there already"):
        claims.experiment("sizes", ran)


def test_an_experiment_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: object, out: Path, *__: object, **___: object) -> None:
        (out / "trials").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "carry_out", stopped)
    with pytest.raises(KeyboardInterrupt):
        claims.experiment("sizes", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_inconclusive_trial_is_no_verdict(ran: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(ran, tmp_path / "copy")
    for path in (copy / "both-ways" / "trials").glob("*websocket*/record.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "drained": False}))
        disk.seal(path.parent)
    found = claims.read(copy).frame.set_index("id")
    assert found["verdict"]["websocket-both-at-once"] == "not measured"
    assert "? not measured, inconclusive." in found["figures"]["websocket-both-at-once"]
    assert found["verdict"]["websocket-low-overhead"] == "supported"


def test_quick_and_full_experiments_are_told_apart(tmp_path: Path) -> None:
    claims.experiment("messages", tmp_path / "quick", quick=True)
    found = claims.read(tmp_path / "quick")
    assert found.quick == ["messages"]
    assert found.of("sse").quick == ["messages"]
    assert str(found).endswith("Quick, so a look and no measurement: messages")
    assert "Quick, so a look and no measurement: messages" in found._repr_html_()
    manifest = tmp_path / "quick" / "messages" / "manifest.json"
    table = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**table, "workload": {**table["workload"], "duration": 1.0}}))
    assert claims.read(tmp_path / "quick").quick == []


@pytest.mark.parametrize("spoil", ["manifest", "record", "failed"])
def test_what_failed_or_is_damaged_is_named_with_the_folder_to_remove(
    spoil: str, ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(ran, tmp_path / "copy")
    manifest = copy / "sizes" / "manifest.json"
    table = json.loads(manifest.read_text())
    table["trials"][next(iter(table["trials"]))] = {"error": "The link stopped."}
    record = next((copy / "sizes" / "trials").glob("*/record.json"))
    path, text = {"manifest": (manifest, "{"), "record": (record, "[]"), "failed": (manifest, json.dumps(table))}[spoil]
    path.write_text(text)
    monkeypatch.setattr(claims, "experiment", lambda *_: None)
    assert main(["claims", "--out", str(copy)]) == 1
    told = capsys.readouterr().err
    assert f"To have it repeated, remove '{copy / 'sizes'}' and run `labkit claims --out {copy}` again.\n" in told
    assert path.read_text() == text
    assert main(["claims", str(copy)]) == 1


def test_what_an_experiment_lacks_is_got_by_repeating_it(ran: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(ran, tmp_path / "copy")
    manifest = copy / "both-ways" / "manifest.json"
    table = json.loads(manifest.read_text())
    table["trials"] = {name: entry for name, entry in table["trials"].items() if "sse" not in name}
    manifest.write_text(json.dumps(table))
    figures = claims.read(copy).frame.set_index("id")["figures"]["sse-poor-both-ways"]
    again = f"remove '{copy / 'both-ways'}' and run `labkit claims --out {copy}` again."
    assert figures == f"Not measured in this run: This run has no duplex trial of sse; {again}"


def test_cpu_and_median_times_are_compared_by_one_factor() -> None:
    compared = [figure for claim in CLAIMS for figure in claim.figures if figure.query.against or figure.base]
    noisy = {
        figure.holds for figure in compared if "_us_per_" in figure.query.metric or figure.query.metric == "p50_ms"
    }
    assert noisy == {"> 2", "<= 2"}


def test_one_damaged_experiment_spoils_no_other(ran: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(ran, tmp_path / "copy")
    (copy / "sizes" / "manifest.json").write_text("{")
    found = claims.read(copy)
    assert by_id(found)["websocket-both-at-once"] == "supported"
    figures = found.frame.set_index("id")["figures"]["websocket-low-overhead"]
    assert figures.startswith("Not measured in this run: The manifest of")
    assert "sizes' is damaged" in figures


def test_a_failed_trial_is_told_and_decides_nothing(ran: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(ran, tmp_path / "copy")
    manifest = json.loads((copy / "sizes" / "manifest.json").read_text())
    name = next(iter(manifest["trials"]))
    manifest["trials"][name] = {"error": "The link stopped."}
    (copy / "sizes" / "manifest.json").write_text(json.dumps(manifest))
    found = claims.read(copy)
    assert found.errors == {f"sizes/{name}": "The link stopped."}
    assert by_id(found)["websocket-low-overhead"] == "not measured"


def test_an_ordinary_run_answers_what_it_can(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", str(plain)]) == 0
    assert "It needs no standing connection" in capsys.readouterr().out
    verdicts = by_id(claims.read(plain))
    assert verdicts["webhook-no-connection"] == "supported"
    assert verdicts["resthooks-one-call"] == "supported"
    assert verdicts["resthooks-moves-polling"] == "refuted"
    assert verdicts["resthooks-no-polling"] == "it depends"
    assert verdicts["pubsub-narrow"] == verdicts["websocket-low-overhead"] == "not measured"
    figures = claims.read(lab.Run(plain)).frame.set_index("id")["figures"]
    assert figures["pubsub-narrow"] == "Not measured in this run: It takes a run with topics 10."
    assert figures["websocket-low-overhead"] == "Not measured in this run: It takes a sweep over size."
    assert figures["sse-lost-until-then"].startswith("Not measured in this run: This run measured no loss")


def test_a_sweep_stands_for_a_sweep_over_the_same(ran: Path) -> None:
    verdicts = by_id(claims.read(ran / "sizes"))
    assert verdicts["websocket-low-overhead"] == "supported"
    assert verdicts["push-saves-bytes"] == verdicts["webhook-no-connection"] == "not measured"


def test_evidence_adds_to_the_frames_of_a_run(plain: Path) -> None:
    evidence = Evidence(lab.Run(plain))
    frame = evidence.bandwidth
    assert (frame["setup_bytes"] == frame["setup_up"] + frame["setup_down"]).all()
    requests = evidence.requests.set_index(["protocol", "guarantee"])
    assert (requests.loc["webhook", ["consumer_setup", "consumer_load", "consumer_idle"]] == 0).all(axis=None)
    assert (requests.loc["webhook", "producer_load"] == 20).all()
    assert list(clients().effort["protocol"]) == list(PROTOCOLS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["claims", "nowhere"], "'nowhere' is no run of claims, nor any run; give a folder that `labkit claims` wrote"),
        (
            ["claims", "nowhere", "--quick"],
            "--out and --quick are for a new run; leave them out, or the folder 'nowhere'",
        ),
        (["claims", "nowhere", "--out", "there"], "--out and --quick are for a new run"),
    ],
)
def test_bad_usage_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_damaged_run_is_one_sentence(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(plain, tmp_path / "copy")
    next((copy / "trials").glob("*/spec.json")).write_text("[]")
    assert main(["claims", str(copy)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert main(["claims", "--out", str(copy)]) == 2
    assert "is an ordinary run; choose another folder" in capsys.readouterr().err


CLAIM = '[[claim]]\nid = "x"\nprotocol = "sse"\nclaim = "A."\nwhy = "B."\nsource = "C."\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[claim]\n", "cannot be read"),
        (CLAIM + CLAIM, "Two claims have the id 'x'"),
        (CLAIM + 'what = "D."\n', "The claim 'x' is damaged: it has 'what'"),
        (
            '[experiment.e]\nkind = "guess"\n',
            "The experiment 'e' is of kind 'guess'; choose from compare, sweep, demonstrations",
        ),
        (
            CLAIM + 'depends = "E."\nexperiment = "e"\n[[claim.figures]]\nframe = "loss"\nmetric = "lost"\nof = "sse"\n'
            'holds = "> 1"\n',
            "The claim 'x' is of the experiment 'e', which there is not",
        ),
    ],
)
def test_a_damaged_file_of_claims_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "claims.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        claims.load(path)
    assert words in str(error.value)


def test_an_experiment_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for arguments, words in (
        ({"rates": 1}, "In the experiment 'e': it has 'rates'; choose from workload"),
        ({"workload": {"speeed": 1}}, "In the experiment 'e': workload has 'speeed'; choose from rate"),
        ({"workload": {"rate": 0}}, "rate is 0"),
    ):
        with pytest.raises(UsageError, match=words):
            Experiment("e", "compare", arguments, {}).carry_out(tmp_path / "e")
    with pytest.raises(UsageError, match="no experiment 'e'; choose from rates, messages"):
        claims.experiment("e", tmp_path)
