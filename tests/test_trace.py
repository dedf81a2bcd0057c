import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import UsageError
from labkit.event import Event, encode
from labkit.trace import Entry, from_git, load, save

# A busy machine must not fail a test.
SOME = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def log(tmp_path):
    """Writes a log of that name and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def sentence(function, *arguments):
    """The one sentence with which the call is refused."""
    with pytest.raises(UsageError) as caught:
        function(*arguments)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_jsonl_gives_seconds_since_the_first_line_topics_and_data(log):
    path = log(
        "a.jsonl",
        '{"time": 100, "type": "order.placed", "data": {"id": 1}}\n'
        '{"time": 100.25, "type": "order.paid", "data": [1, "ü"]}\n'
        '{"time": "101.5", "type": "x", "data": null}\n',
    )
    assert load(path) == [
        Entry(0.0, "order.placed", {"id": 1}),
        Entry(0.25, "order.paid", [1, "ü"]),
        Entry(1.5, "x", None),
    ]


def test_csv_gives_the_same_as_jsonl_with_its_fields_as_text(log):
    path = log("a.csv", 'time,type,data\n5,a,"x, ""y"""\n7.5,b,\n')
    assert load(path) == [Entry(0.0, "a", 'x, "y"'), Entry(2.5, "b", "")]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", '{"time": 0, "type": "t", "user": "u1", "n": "2"}'), ("a.csv", "time,type,user,n\n0,t,u1,2\n")],
)
def test_without_data_all_other_fields_are_the_data(log, name, content):
    assert load(log(name, content)) == [Entry(0.0, "t", {"user": "u1", "n": "2"})]


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", '{"time": 0, "n": "1"}'), ("a.csv", "time,n\n0,1\n")])
def test_without_a_type_the_topic_is_event(log, name, content):
    assert load(log(name, content)) == [Entry(0.0, "event", {"n": "1"})]


@pytest.mark.parametrize("name", ["A.JSONL", "a.Jsonl"])
def test_the_case_of_the_suffix_does_not_matter(log, name):
    assert load(log(name, '{"time": 0, "data": 1}')) == [Entry(0.0, "event", 1)]


@pytest.mark.parametrize(
    ("first", "second", "seconds"),
    [
        ("2026-03-01T10:00:00Z", "2026-03-01T10:00:01.5Z", 1.5),
        ("2026-03-01T10:00:00Z", "2026-03-01T12:00:00+01:00", 3600.0),
        ("2026-03-01T10:00:00", "2026-03-01T10:00:02Z", 2.0),
        ("2026-03-01", "2026-03-02", 86_400.0),
        ("2026-03-01 10:00:00", "2026-03-01 10:00:00.250", 0.25),
        ("1", "1e3", 999.0),
        ("-1.5", "0", 1.5),
    ],
)
def test_iso_and_numeric_times_in_both_formats(log, first, second, seconds):
    jsonl = log("a.jsonl", f'{{"time": "{first}"}}\n{{"time": "{second}"}}\n')
    table = log("a.csv", f"time\n{first}\n{second}\n")
    assert [entry.at for entry in load(jsonl)] == [0.0, seconds]
    assert [entry.at for entry in load(table)] == [0.0, seconds]


def test_times_without_a_zone_are_utc_whatever_the_machines_zone(log):
    path = log("a.jsonl", '{"time": "2026-07-01T00:00:00"}\n{"time": "2026-07-01T00:00:00Z"}\n')
    assert [entry.at for entry in load(path)] == [0.0, 0.0]


def test_lines_out_of_order_are_sorted_and_lines_of_one_time_keep_their_order(log):
    lines = [(3, "d"), (1, "a"), (2, "b"), (2, "c"), (3, "e")]
    text = "".join(json.dumps({"time": at, "data": data}) + "\n" for at, data in lines)
    entries = load(log("a.jsonl", text))
    assert [(entry.at, entry.data) for entry in entries] == [(0, "a"), (1, "b"), (1, "c"), (2, "d"), (2, "e")]


@SOME
@given(st.lists(st.tuples(st.integers(-(10**6), 10**6), st.text()), min_size=1, max_size=12))
def test_every_line_saved_comes_back_ordered_by_time(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("trace") / "a.jsonl"
    save([{"time": at, "data": data} for at, data in lines], path)
    first = min(at for at, _ in lines)
    assert load(path) == [Entry(at - first, "event", data) for at, data in sorted(lines, key=lambda line: line[0])]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_no_damage(log):
    jsonl = log("a.jsonl", b'\xef\xbb\xbf{"time": 1, "data": 1}\r\n\r\n   \n{"time": 2, "data": 2}')
    table = log("a.csv", b"\xef\xbb\xbftime,data\r\n1,1\r\n\r\n2,2\r\n")
    assert load(jsonl) == [Entry(0.0, "event", 1), Entry(1.0, "event", 2)]
    assert load(table) == [Entry(0.0, "event", "1"), Entry(1.0, "event", "2")]


def test_line_separators_of_unicode_within_a_string_do_not_end_a_line(log):
    path = log("a.jsonl", '{"time": 1, "data": "a\u2028b\u0085c"}\n')
    assert load(path) == [Entry(0.0, "event", "a\u2028b\u0085c")]


def test_a_quoted_csv_field_may_go_on_over_lines_and_later_lines_are_still_numbered_right(log):
    assert load(log("a.csv", 'time,data\n1,"a\nb"\n2,c\n'))[0].data == "a\nb"
    assert "Line 5 " in sentence(load, log("b.csv", 'time,data\n1,"a\nb"\n2,c\nnever,d\n'))


GOOD = '{"time": 1}'


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        ('{"time": 2', "is not JSON"),
        ("time=2", "is not JSON"),
        ('{"time": NaN}', "NaN is not a JSON value"),
        ('{"time": 2, "data": NaN}', "NaN is not a JSON value"),
        ('{"time": 2, "data": {"deep": [-Infinity]}}', "-Infinity is not a JSON value"),
        ("[2]", "is not a JSON object"),
        ("2", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('{"type": "a", "data": 1}', "has no 'time'"),
        ('{"Time": 2}', "has no 'time'"),
        ('{"time": null}', "has no 'time'"),
        ('{"time": "NaN"}', "NaN"),
        ('{"time": "inf"}', "inf"),
        ('{"time": "yesterday"}', "has the time 'yesterday'"),
        ('{"time": ""}', "has the time ''"),
        ('{"time": [2]}', "has the time [2]"),
        ('{"time": {"s": 2}}', "has the time {'s': 2}"),
        ('{"time": true}', "has the time True"),
        ('{"time": "2026-02-30T00:00:00Z"}', "has the time '2026-02-30T00:00:00Z'"),
        ('{"time": 1' + "0" * 400 + "}", "has the time 1"),
        ('{"time": 2, "type": "two words"}', "has the type 'two words'"),
        ('{"time": 2, "type": "a..b"}', "has the type 'a..b'"),
        ('{"time": 2, "type": ".a"}', "has the type '.a'"),
        ('{"time": 2, "type": "a."}', "has the type 'a.'"),
        ('{"time": 2, "type": "orders.*"}', "has the type 'orders.*'"),
        ('{"time": 2, "type": "orders.>"}', "has the type 'orders.>'"),
        ('{"time": 2, "type": "größe"}', "has the type 'größe'"),
        ('{"time": 2, "type": "a\\n"}', "has the type 'a\\n'"),
        ('{"time": 2, "type": "' + "a" * 101 + '"}', "at most 100"),
        ('{"time": 2, "type": {"a": 1}}', "has the type"),
    ],
    ids=lambda text: text[:40],
)
def test_a_damaged_line_of_jsonl_is_named_with_what_is_wrong(log, damaged, named):
    text = sentence(load, log("a.jsonl", f"{GOOD}\n\n{damaged}\n{GOOD}\n"))
    assert "Line 3 of 'a.jsonl'" in text
    assert named in text


@pytest.mark.parametrize(
    "damaged",
    [
        '{"time": 1e999}',
        '{"time": 2, "data": 1e999}',
        '{"time": 2, "data": {"deep": [-1e999]}}',
        '{"time": 2, "data": ' + "[" * 100_000 + "}",
        '{"time": 2, "data": ' + "9" * 5_000 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_a_line_with_a_number_or_a_depth_that_no_event_could_hold_is_named(log, damaged):
    text = sentence(load, log("a.jsonl", f"{GOOD}\n{damaged}\n"))
    assert "Line 2 of 'a.jsonl'" in text
    assert len(text) < 500


def test_a_type_of_a_hundred_characters_is_taken(log):
    assert load(log("a.jsonl", json.dumps({"time": 0, "type": "a" * 100})))[0].topic == "a" * 100


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        ("2", "not as many fields as the header"),
        ("2,a,b,c", "not as many fields as the header"),
        ("nan,a,b", "nan"),
        ("inf,a,b", "inf"),
        ("soon,a,b", "has the time 'soon'"),
        (",a,b", "has the time ''"),
        ("2,two words,b", "has the type 'two words'"),
    ],
)
def test_a_damaged_line_of_csv_is_named_with_what_is_wrong(log, damaged, named):
    text = sentence(load, log("a.csv", f"time,type,data\n1,a,b\n{damaged}\n"))
    assert "Line 3 of 'a.csv'" in text
    assert named in text


def test_a_quote_left_open_does_not_swallow_the_lines_after_it(log):
    assert "'a.csv'" in sentence(load, log("a.csv", 'time,data\n1,"a\n2,b\n3,c\n'))


@pytest.mark.parametrize("header", ['"time,data', 'time,"data"x', 'time,"' + "x" * 200_000])
def test_a_damaged_header_of_csv_is_refused(log, header):
    assert "'a.csv'" in sentence(load, log("a.csv", f"{header}\n1,2\n"))


def test_a_csv_field_of_a_size_that_an_event_may_have_is_taken(log):
    assert load(log("a.csv", f"time,data\n1,{'x' * 200_000}\n"))[0].data == "x" * 200_000


@pytest.mark.parametrize(
    ("header", "found"), [("when,data", "found: when, data"), ("Time", "found: Time"), ("", "found: none")]
)
def test_a_csv_without_a_time_column_says_which_columns_there_are(log, header, found):
    text = sentence(load, log("a.csv", f"{header}\n1,2\n" if header else ""))
    assert "has no column 'time'" in text
    assert found in text


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("a.jsonl", "\n  \n"), ("a.csv", "time\n"), ("a.jsonl", b"\xef\xbb\xbf")]
)
def test_a_trace_without_events_is_refused(log, name, content):
    assert f"{name!r} holds no events" in sentence(load, log(name, content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"time": 1}'.encode("utf-16")),
        ("a.jsonl", '{"time": 1}\n{"time": 2, "data": "ü"}\n'.encode("latin-1")),
        ("a.csv", "time\n1\n".encode("utf-16")),
        ("a.csv", "time,data\n1,ü\n".encode("latin-1")),
    ],
)
def test_a_file_that_is_not_utf_8_is_refused(log, name, content):
    assert f"{name!r} is not UTF-8" in sentence(load, log(name, content))


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a", "a.jsonl.gz", ".jsonl"])
def test_a_file_of_another_kind_is_refused(log, name):
    text = sentence(load, log(name, GOOD))
    assert repr(name) in text
    assert ".jsonl or a .csv" in text


@pytest.mark.parametrize("name", ["gone.jsonl", "gone/a.csv", "folder.jsonl"])
def test_a_missing_file_is_named(tmp_path, name):
    (tmp_path / "folder.jsonl").mkdir()
    path = tmp_path / name
    problem = "is not a file" if path.is_dir() else "does not exist"
    assert f"{str(path)!r} {problem}" in sentence(load, path)


@SOME
@given(st.binary(max_size=60), st.sampled_from(["a.jsonl", "a.csv"]))
def test_any_bytes_are_a_trace_of_encodable_events_or_one_sentence(tmp_path_factory, content, name):
    path = tmp_path_factory.mktemp("trace") / name
    path.write_bytes(b"time\n1\n" + content if name == "a.csv" else b'{"time": 1}\n' + content)
    entries, refusal = [], ""
    try:
        entries = load(path)
    except UsageError as error:
        refusal = str(error)
    assert bool(entries) is (name not in refusal)
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
    assert all(encode(Event(0, entry.topic, 0, entry.data)) for entry in entries)


def test_save_writes_one_json_object_a_line_in_new_folders(tmp_path):
    path = tmp_path / "new" / "deeper" / "a.jsonl"
    entries = [{"time": 1, "data": {"text": "zwei\nZeilen"}}, {"time": 2, "type": "b", "data": "ü"}]
    save(entries, path)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == entries


def test_save_refuses_to_overwrite_and_leaves_the_file_as_it_was(log):
    path = log("a.jsonl", "mine")
    assert repr(str(path)) in sentence(save, [{"time": 1}], path)
    assert path.read_text() == "mine"


AUTHOR, ADDRESS = "Ada Testperson", "ada@person.example"


class Repository:
    """A git repository in a folder of the test, made by git itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet")

    def git(self, *arguments: str, at: int = 0) -> str:
        """What git printed."""
        date = f"@{1_700_000_000 + at} +0000"
        dated = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        command = ["git", "-c", f"user.name={AUTHOR}", "-c", f"user.email={ADDRESS}", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=dated, check=True, capture_output=True, text=True)
        return done.stdout

    def commit(self, subject: str, at: int, **files: str | bytes | None) -> None:
        """One commit in which each file has that content, or (None) is removed."""
        for name, content in files.items():
            path = self.folder / name
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", subject, at=at)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository, away from the settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Repository(tmp_path / "repository")


def test_from_git_gives_one_entry_per_commit_with_its_counts_and_its_subject(repository, tmp_path):
    repository.commit('Begin: ünïcode | tabs\tand "quotes"', 0, one="a\nb\nc\n", two="x\n")
    repository.commit("Change\n\nA body that is not kept.", 60, one="a\nB\nc\nd\n", two=None)
    repository.commit("Nothing", 90)
    repository.commit("A picture", 120, picture=b"\x00\x01\x02" * 50)
    entries = from_git(repository.folder)
    assert [entry["data"] for entry in entries] == [
        {"subject": 'Begin: ünïcode | tabs\tand "quotes"', "files": 2, "added": 4, "removed": 0},
        {"subject": "Change", "files": 2, "added": 2, "removed": 2},
        {"subject": "Nothing", "files": 0, "added": 0, "removed": 0},
        {"subject": "A picture", "files": 1, "added": 0, "removed": 0},
    ]
    assert [entry["type"] for entry in entries] == ["push"] * 4
    times = [datetime.fromisoformat(entry["time"]).timestamp() - 1_700_000_000 for entry in entries]
    assert times == [0, 60, 90, 120]

    path = tmp_path / "git.jsonl"
    save(entries, path)
    assert load(path) == [Entry(at, "push", entry["data"]) for at, entry in zip((0, 60, 90, 120), entries, strict=True)]


def test_from_git_keeps_no_author_and_no_address(repository):
    repository.commit(f"Say hello\n\nSigned-off-by: {AUTHOR} <{ADDRESS}>", 0, one="a\n")
    repository.commit("Say it again", 1, one="b\n")
    text = json.dumps(from_git(repository.folder))
    assert "Say it again" in text
    for personal in (AUTHOR, *AUTHOR.split(), ADDRESS, "person.example", "@", "Signed-off-by"):
        assert personal not in text


def test_from_git_keeps_subjects_with_control_characters(repository):
    subjects = ["a\x1eb", "c\x1fd", "e\x1e7\x1ff"]
    for number, subject in enumerate(subjects):
        repository.commit(subject, number, one=f"{number}\n")
    assert [entry["data"]["subject"] for entry in from_git(repository.folder)] == subjects


def test_from_git_leaves_out_merges_whose_lines_are_counted_already(repository):
    repository.commit("First", 0, one="1\n")
    repository.git("checkout", "--quiet", "-b", "side")
    repository.commit("Aside", 10, two="2\n")
    repository.git("checkout", "--quiet", "-")
    repository.commit("Ahead", 20, three="3\n")
    repository.git("merge", "--quiet", "--no-ff", "-m", "Merged", "side", at=30)
    assert [entry["data"]["subject"] for entry in from_git(repository.folder)] == ["First", "Aside", "Ahead"]


def test_from_git_counts_files_with_odd_names_and_renames(repository):
    repository.commit("Odd", 0, **{"tab\tnew\nline": "1\n2\n", "größe": "3\n"})
    (repository.folder / "größe").rename(repository.folder / "renamed")
    repository.commit("Renamed", 1)
    counts = [
        (entry["data"]["files"], entry["data"]["added"], entry["data"]["removed"])
        for entry in from_git(repository.folder)
    ]
    assert counts == [(2, 3, 0), (1, 0, 0)]


def test_from_git_counts_the_first_commit_whatever_the_users_settings(repository):
    repository.commit("First", 0, one="1\n")
    repository.git("config", "log.showRoot", "false")
    repository.git("config", "log.showSignature", "true")
    repository.git("config", "color.ui", "always")
    assert [entry["data"] for entry in from_git(repository.folder)] == [
        {"subject": "First", "files": 1, "added": 1, "removed": 0}
    ]


def test_from_git_names_a_folder_that_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for folder in (tmp_path, tmp_path / "gone"):
        assert repr(str(folder)) in sentence(from_git, folder)


def test_from_git_names_a_repository_without_commits(repository):
    assert repr(str(repository.folder)) in sentence(from_git, repository.folder)


def test_from_git_refuses_a_history_that_git_can_read_in_part_only(repository):
    for number in range(3):
        repository.commit(f"Commit {number}", number, one=f"{number}\n")
    tree = repository.git("rev-parse", "HEAD~1^{tree}").strip()
    (repository.folder / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    assert repr(str(repository.folder)) in sentence(from_git, repository.folder)


def test_from_git_says_that_git_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed" in sentence(from_git, tmp_path)
