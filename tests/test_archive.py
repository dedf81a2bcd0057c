"""Archives: what was written is read again, bit by bit; what is damaged is one sentence."""

import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from histories import FIRST, START, History, crc, record, records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.archive import COLUMNS, FORMAT, Packed, masked, read, write
from labkit.errors import UsageError
from labkit.ledger import Kind, dtype

INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(
    st.tuples(INT64, INT64, st.integers(0, 2**32 - 1), st.integers(0, 65535), st.just(0), st.sampled_from(Kind)),
    max_size=12,
)
LEDGERS = st.dictionaries(
    st.sampled_from(["producer.ledger", "consumer.ledger", "consumer-2.ledger", "link.ledger"]),
    ROWS.map(lambda rows: np.array(rows, dtype())),
)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
FILES = st.fixed_dictionaries({"spec.json": JSON, "record.json": JSON})
TRIALS = st.dictionaries(st.text(max_size=9), st.tuples(FILES, LEDGERS), max_size=4)
ANYWHERE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(name: str = "latency-sse-at-most-once-1", step_ns: int = 1, **ledgers: Any) -> Packed:
    """A trial of plain files and the ledgers of a history, unless others are given."""
    history = History()
    received = [record(Kind.RECEIVED, at, FIRST + n, who, crc(n)) for (who, n), at in history.arrivals.items()]
    there = {"producer": history.producer, "consumer": received, "link": []} | ledgers
    files = {"spec.json": {"name": name}, "record.json": {"drained": True}}
    return Packed(name, files, {f"{role}.ledger": records(rows) for role, rows in there.items()}, step_ns)


def known(trials: dict[str, Packed]) -> list[Any]:
    """All that is in trials, in order, as what compares."""
    return [
        (name, trial.name, trial.files, trial.step_ns, [(file, rows.tobytes()) for file, rows in trial.records.items()])
        for name, trial in trials.items()
    ]


def refused(path: Path) -> str:
    """The one sentence with which it is not read."""
    with pytest.raises(UsageError) as caught:
        read(path)
    text = str(caught.value)
    assert text.endswith(".")
    assert re.search(r"[.!?]\s", text) is None
    assert repr(str(path)) in text
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trials.xz"


@given(TRIALS)
@ANYWHERE
def test_any_records_of_any_trials_are_read_as_they_were_written(path: Path, made: dict[str, Any]) -> None:
    trials = {name: Packed(name, files, ledgers) for name, (files, ledgers) in made.items()}
    write(path, trials)
    assert known(read(path)) == known(trials)


@given(st.integers(1, 10**9), st.lists(st.integers(-(2**31), 2**31), max_size=9))
@ANYWHERE
def test_times_that_are_multiples_of_a_step_are_read_as_they_were(path: Path, step: int, times: list[int]) -> None:
    link = [record(Kind.UP, step * time, value=1) for time in times]
    trial = packed(step_ns=step, link=link, producer=[], consumer=[])
    write(path, {trial.name: trial})
    assert known(read(path)) == known({trial.name: trial})


def test_steps_of_several_trials_are_each_their_own(path: Path) -> None:
    steps = {"a": 1, "b": 1_000, "c": 1_000_000}
    rows = [record(Kind.SENT, START + 7_000_000 * n, FIRST + n) for n in range(5)]
    trials = {name: packed(name, step, producer=rows, consumer=[]) for name, step in steps.items()}
    write(path, trials)
    assert known(read(path)) == known(trials)


@pytest.mark.parametrize("extreme", [{}, {"a": {}}, {"a": {"link.ledger": np.empty(0, dtype())}}])
def test_no_trials_no_ledgers_and_empty_ledgers_are_kept(path: Path, extreme: dict[str, Any]) -> None:
    trials = {name: Packed(name, {}, ledgers) for name, ledgers in extreme.items()}
    write(path, trials)
    assert known(read(path)) == known(trials)


def test_a_trial_of_many_records_is_read_as_it_was_and_is_much_smaller(path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 1000, 20_000)
    rows = [record(Kind.SENT, START + n * 1_000_000 + int(late), n, value=256) for n, late in enumerate(noise)]
    trials = {"a": packed("a", producer=rows)}
    write(path, trials)
    assert known(read(path)) == known(trials)
    assert path.stat().st_size < 24 * len(rows) / 8


def test_the_same_trials_give_the_same_bytes_and_nothing_else_is_left(path: Path) -> None:
    write(path, {"a": packed("a"), "b": packed("b")})
    first = path.read_bytes()
    write(path, {"a": packed("a"), "b": packed("b")})
    assert path.read_bytes() == first
    write(path, {"b": packed("b"), "a": packed("a")})
    assert path.read_bytes() != first
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_writing_changes_no_record(path: Path) -> None:
    trial = packed()
    before = known({trial.name: trial})
    write(path, {trial.name: trial})
    assert known({trial.name: trial}) == before


@given(ROWS, st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=9))
@ANYWHERE
def test_masked_is_its_own_inverse(rows: list[Any], first: int, checksums: list[int]) -> None:
    offer = History(len(checksums)).offer
    offer = type(offer)(first, offer.due_ns, offer.size, np.array(checksums, np.int64), offer.wanted)
    # A few that certainly are of the offer.
    near = [(7, 9, (first + n) % 2**32, n, 0, kind) for n, kind in enumerate((Kind.RECEIVED, Kind.REPEATED, Kind.SENT))]
    made = np.array([*rows, *near], dtype())
    before = made.tobytes()
    assert masked(masked(made, offer), offer).tobytes() == before == made.tobytes()


def test_an_arrival_with_the_right_bytes_is_nought_and_nothing_else_changes() -> None:
    history = History()
    rows = [
        record(Kind.RECEIVED, START, FIRST + 3, 0, crc(3)),
        record(Kind.REPEATED, START + 1, FIRST + 3, 0, crc(3)),
        record(Kind.RECEIVED, START + 2, FIRST + 4, 1, crc(3)),
        record(Kind.RECEIVED, START + 3, FIRST - 1, 1, 77),
        record(Kind.RECEIVED, START + 4, FIRST + 20, 1, 78),
        record(Kind.RECEIVED, START + 5, value=79),
        record(Kind.SENT, START + 6, FIRST + 3, value=256),
    ]
    values = masked(records(rows), history.offer)["value"].tolist()
    assert values == [0, 0, crc(3) ^ crc(4), 77, 78, 79, 256]
    found = masked(records(rows), history.offer)
    for column in ("time_ns", "sequence", "subscriber", "kind"):
        assert found[column].tolist() == records(rows)[column].tolist()


def test_a_trial_gives_its_ledgers_unmasked_and_names_one_that_is_missing(path: Path) -> None:
    history, trial = History(), packed("a")
    raw = trial.records["consumer.ledger"]
    kept = Packed("a", trial.files, {"consumer.ledger": masked(raw, history.offer)})
    write(path, {"a": kept})
    found = read(path)["a"]
    assert found.ledgers() == ["consumer.ledger"]
    assert found.ledger("consumer.ledger", history.offer).tobytes() == raw.tobytes()
    assert found.json("record.json") == {"drained": True}
    with pytest.raises(UsageError, match=r"^The ledger link\.ledger of trial a is missing; restore the archive\.$"):
        found.ledger("link.ledger", history.offer)


DAMAGED = re.compile(r"^The archive '.*' is damaged; restore it\.$")
HARM: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no xz": lambda _: b"trials",
    "a gap": lambda raw: raw[:40] + raw[44:],
    "only a header of xz": lambda raw: raw[:12],
    "cut in the middle": lambda raw: raw[: len(raw) // 2],
    "one byte short": lambda raw: raw[:-1],
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_damaged_file_is_refused_in_a_sentence(path: Path, harm: Callable[[bytes], bytes]) -> None:
    write(path, {"a": packed("a")})
    path.write_bytes(harm(path.read_bytes()))
    assert DAMAGED.match(refused(path))


def test_no_flipped_bit_anywhere_goes_unnoticed(path: Path) -> None:
    write(path, {"a": packed("a")})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            assert DAMAGED.match(refused(path)), place


def test_a_file_that_is_not_there_and_a_folder_in_its_place_are_refused(path: Path) -> None:
    assert DAMAGED.match(refused(path))
    path.mkdir()
    assert DAMAGED.match(refused(path))


BODY = b"\0" * len(COLUMNS) * 8
"""One record."""


def headed(header: Any, body: bytes = BODY) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lzma.compress(raw + b"\n" + body)


def about(**trial: Any) -> dict[str, Any]:
    """The header of an archive of one trial with one record."""
    return {"format": FORMAT, "trials": {"a": {"files": {}, "step_ns": 1, "ledgers": {"link.ledger": 1}} | trial}}


def test_what_the_damaged_ones_are_made_from_is_sound(path: Path) -> None:
    path.write_bytes(headed(about()))
    assert read(path)["a"].records["link.ledger"].tobytes() == bytes(24)


@pytest.mark.parametrize(
    "content",
    [
        lzma.compress(b""),
        lzma.compress(json.dumps(about()).encode()),
        headed(b"{"),
        headed(b"\xff\xfe"),
        headed([]),
        headed("format"),
        headed({}),
        headed({"format": FORMAT}),
        headed({"format": FORMAT, "trials": []}),
        headed({"format": FORMAT, "trials": {"a": []}}),
        headed({"format": FORMAT, "trials": {"a": {}}}),
        headed(about(ledgers=[])),
        headed(about(ledgers={"link.ledger": "1"})),
        headed(about(ledgers={"link.ledger": 1.0})),
        headed(about(ledgers={"link.ledger": None})),
        headed(about(ledgers={"link.ledger": -1})),
        headed(about(ledgers={"link.ledger": 2})),
        headed(about(ledgers={"link.ledger": 2, "producer.ledger": -1})),
        headed(about(ledgers={"link.ledger": 10**30})),
        headed(about(ledgers={})),
        headed(about(step_ns=None)),
        headed(about(step_ns=0.5)),
        headed(about(step_ns=10**30)),
        headed(about(), BODY[:-1]),
        headed(about(), BODY + b"\0"),
        headed(about(), BODY * 2),
        headed(about(), b""),
    ],
)
def test_a_header_or_lengths_that_cannot_be_are_refused_in_a_sentence(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert DAMAGED.match(refused(path))


@pytest.mark.parametrize("other", [FORMAT + 1, 0, None, "of tomorrow", [1] * 1000])
def test_another_format_is_refused_with_both(path: Path, other: object) -> None:
    path.write_bytes(headed({"format": other}))
    text = refused(path)
    assert text.startswith(f"The archive {str(path)!r} has format ")
    assert text.endswith(f"; this labkit reads {FORMAT}.")
    assert len(text) < len(str(path)) + 150
