import errno
import os
import signal
import subprocess
import sys
import time
import zlib
from contextlib import closing

import numpy as np
import pytest
from histories import DTYPE, ledger_bytes, record

from labkit.errors import TrialError, UsageError
from labkit.ledger import CHUNK, EVERYONE, MAGIC, NO_SEQUENCE, RECORD, Kind, Ledger, Retold, Tail, are, read

WRITER = """
import sys
from pathlib import Path
from labkit.ledger import CHUNK, EVERYONE, MAGIC, NO_SEQUENCE, RECORD, Kind, Ledger, Retold, Tail, read

ledger = Ledger(Path(sys.argv[1]))
for number in range(5_000_000):
    ledger.write(Kind.RECEIVED, number, number % 7, number * 3)
    if number + 1 == int(sys.argv[2]):
        print("written", flush=True)
"""
"""Ends by itself, after seconds, only when nobody kills it."""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trial-a" / "producer.ledger"


@pytest.fixture(autouse=True)
def folder(path):
    path.parent.mkdir()


def rows(count):
    return [record(Kind.RECEIVED, number + 1, number, 3, number) for number in range(count)]


def refusal(path):
    """The one sentence with which a ledger is refused; the file stays as it was."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(UsageError) as caught:
        read(path)
    assert (path.read_bytes() if path.exists() else None) == before
    text = str(caught.value)
    assert text.endswith(".")
    assert ". " not in text
    assert "\n" not in text
    return text


def test_what_is_written_is_read_back_in_order_with_its_time(path):
    written = [
        (Kind.SENT, 0, 0, 256),
        (Kind.GAP, NO_SEQUENCE - 1, EVERYONE - 1, 2**63 - 1),
        (Kind.FAILED, 7, 2, -(2**63)),
    ]
    with closing(Ledger(path)) as ledger:
        before = time.monotonic_ns()
        for kind, sequence, subscriber, value in written:
            ledger.write(kind, sequence, subscriber, value)
        after = time.monotonic_ns()
    found = read(path)
    assert [(r["kind"], r["sequence"], r["subscriber"], r["value"]) for r in found] == written
    times = found["time_ns"].tolist()
    assert times == sorted(times)
    assert before <= times[0]
    assert times[-1] <= after


def test_the_records_have_the_dtype_of_the_contract(path):
    with closing(Ledger(path)) as ledger:
        ledger.write(Kind.CUT)
    assert read(path).dtype == DTYPE
    assert DTYPE.itemsize == RECORD.size == 24


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this platform reserves no place on a disk")
def test_a_disk_that_is_full_is_one_sentence_and_what_was_written_before_is_kept(path, monkeypatch):
    def full(file, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Retold(path)) as ledger:
        monkeypatch.setattr(os, "posix_fallocate", full)
        for number in range(65535):
            ledger.write(Kind.SENT, number)
        for _ in range(2):
            with pytest.raises(TrialError, match=r"There is no room for the ledger producer.ledger of trial trial-a"):
                ledger.write(Kind.SENT, 65535)
    assert read(path)["sequence"].tolist() == list(range(65535))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this platform reserves no place on a disk")
def test_all_that_a_ledger_maps_has_its_place_on_the_disk(path):
    with closing(Ledger(path)):
        assert path.stat().st_blocks * 512 >= path.stat().st_size == CHUNK


def test_a_record_that_names_no_event_and_nobody_is_for_none_and_everyone(path):
    with closing(Ledger(path)) as ledger:
        ledger.write(Kind.HEALED)
    (found,) = read(path)
    assert (found["sequence"], found["subscriber"], found["value"]) == (NO_SEQUENCE, EVERYONE, 0)


def test_every_kind_survives_the_round_trip_and_none_is_zero(path):
    with closing(Ledger(path)) as ledger:
        for kind in Kind:
            ledger.write(kind)
    assert read(path)["kind"].tolist() == list(Kind)
    assert 0 not in list(Kind)


def test_an_arrival_bears_the_checksum_of_its_bytes_and_becomes_the_latest(path):
    with closing(Ledger(path)) as ledger:
        assert ledger.last_arrival_ns == 0
        ledger.received(4, 12, b"twelve")
        first = ledger.last_arrival_ns
        ledger.repeated(4, 11, b"eleven")
        assert ledger.latest == {4: 12}
        assert ledger.last_arrival_ns >= first > 0
    found = read(path)
    assert found["kind"].tolist() == [Kind.RECEIVED, Kind.REPEATED]
    assert found["sequence"].tolist() == [12, 11]
    assert found["subscriber"].tolist() == [4, 4]
    assert found["value"].tolist() == [zlib.crc32(b"twelve"), zlib.crc32(b"eleven")]


def test_an_arrival_that_is_no_event_is_recorded_without_a_sequence(path):
    with closing(Ledger(path)) as ledger:
        ledger.received(0, -1, b"what")
        ledger.repeated(0, -1, b"what")
    assert read(path)["sequence"].tolist() == [NO_SEQUENCE, NO_SEQUENCE]


@pytest.mark.parametrize("count", [65534, 65535, 65536, 2 * 65536 - 1, 2 * 65536 + 1])
def test_ledgers_longer_than_a_chunk_lose_nothing_at_its_edge(path, count):
    with closing(Ledger(path)) as ledger:
        for number in range(count):
            ledger.write(Kind.SENT, number, number % 5, -number)
    found = read(path)
    assert np.array_equal(found["sequence"], np.arange(count))
    assert np.array_equal(found["value"], -np.arange(count))
    assert np.array_equal(found["subscriber"], np.arange(count) % 5)
    assert path.stat().st_size == (count + 1) * RECORD.size


def test_a_closed_ledger_is_as_long_as_its_records_and_closing_again_changes_nothing(path):
    ledger = Ledger(path)
    ledger.write(Kind.SENT, 1)
    assert path.stat().st_size == CHUNK
    ledger.close()
    once = path.read_bytes()
    assert len(once) == 2 * RECORD.size
    ledger.close()
    assert path.read_bytes() == once


def test_a_ledger_still_open_can_be_read(path):
    with closing(Ledger(path)) as ledger:
        assert len(read(path)) == 0
        ledger.write(Kind.SENT, 1)
        ledger.write(Kind.SENT, 2)
        assert read(path)["sequence"].tolist() == [1, 2]


@pytest.mark.parametrize("acknowledged", [10, 2 * 65536 + 10])
def test_a_writer_killed_in_full_flight_leaves_every_record_it_had_written_in_order(path, acknowledged):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(acknowledged)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert path.stat().st_size % CHUNK == 0
    found = read(path)
    count = len(found)
    assert count >= acknowledged
    assert np.array_equal(found["sequence"], np.arange(count))
    assert np.array_equal(found["subscriber"], np.arange(count) % 7)
    assert np.array_equal(found["value"], np.arange(count) * 3)
    assert set(found["kind"].tolist()) == {Kind.RECEIVED}
    assert (np.diff(found["time_ns"]) >= 0).all()


def test_a_torn_last_record_is_not_read(path):
    torn = RECORD.pack(5, 6, 7, 8, 0, 0)
    path.write_bytes(ledger_bytes(rows(3)) + torn)
    assert read(path)["sequence"].tolist() == [0, 1, 2]
    path.write_bytes(ledger_bytes(rows(3)) + torn + bytes(RECORD.size * 50))
    assert read(path)["sequence"].tolist() == [0, 1, 2]


def test_the_kind_is_the_last_byte_of_a_record():
    assert RECORD.pack(0, 0, 0, 0, 0, 255) == bytes(23) + b"\xff"


def test_a_ledger_without_records_is_empty_not_damaged(path):
    Ledger(path).close()
    assert len(read(path)) == 0


def test_a_hole_between_records_is_refused(path):
    raw = bytearray(ledger_bytes(rows(5)))
    raw[RECORD.size * 4 - 1] = 0
    path.write_bytes(raw)
    text = refusal(path)
    assert "hole" in text
    assert "producer.ledger" in text
    assert "trial-a" in text


def test_a_hole_in_place_of_the_first_record_is_refused(path):
    raw = ledger_bytes(rows(2))
    path.write_bytes(raw[: RECORD.size] + bytes(RECORD.size) + raw[2 * RECORD.size :])
    assert "hole" in refusal(path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        MAGIC,
        MAGIC.replace(b"1", b"2").ljust(24, b"\0"),
        b"x" + ledger_bytes(rows(2))[1:],
        bytes(CHUNK),
        ledger_bytes(rows(3))[:-1],
        ledger_bytes(rows(3)) + b"\1",
    ],
    ids=["empty", "magic alone", "other version", "first byte", "all zeros", "cut within a record", "a byte too many"],
)
def test_a_damaged_header_or_a_broken_length_is_refused_with_name_trial_and_fix(path, raw):
    path.write_bytes(raw)
    text = refusal(path)
    assert "damaged" in text
    assert "producer.ledger" in text
    assert "trial-a" in text
    assert "restore" in text


def test_a_missing_ledger_is_named_and_not_made(path):
    text = refusal(path)
    assert "missing" in text
    assert "producer.ledger" in text
    assert "trial-a" in text
    assert not path.exists()


def test_a_folder_in_place_of_a_ledger_is_refused(path):
    path.mkdir()
    with pytest.raises(UsageError, match="missing"):
        read(path)


def test_a_ledger_never_overwrites_a_file(path):
    with closing(Ledger(path)) as ledger:
        ledger.write(Kind.SENT, 1)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        Ledger(path)
    assert path.read_bytes() == before


def test_what_is_retold_bears_the_time_it_was_observed_at(path):
    with closing(Retold(path)) as ledger:
        ledger.time_ns = 5_000
        ledger.write(Kind.CONNECTED, subscriber=1)
        ledger.time_ns = 7_000
        ledger.received(1, 12, b"twelve")
        ledger.received(1, -1, b"no event")
        ledger.time_ns = 9_000
        ledger.repeated(1, 12, b"twelve")
        assert (ledger.last_arrival_ns, ledger.latest) == (9_000, {1: -1})
    crc, other = zlib.crc32(b"twelve"), zlib.crc32(b"no event")
    assert [
        tuple(int(row[name]) for name in ("time_ns", "kind", "sequence", "subscriber", "value")) for row in read(path)
    ] == [
        (5_000, Kind.CONNECTED, NO_SEQUENCE, 1, 0),
        (7_000, Kind.RECEIVED, 12, 1, crc),
        (7_000, Kind.RECEIVED, NO_SEQUENCE, 1, other),
        (9_000, Kind.REPEATED, 12, 1, crc),
    ]


def test_what_is_retold_after_the_end_is_dropped(path):
    ledger = Retold(path)
    ledger.received(0, 1, b"one")
    ledger.close()
    ledger.received(0, 2, b"two")
    ledger.close()
    assert [int(row["sequence"]) for row in read(path)] == [1]


def test_a_ledger_that_is_still_written_is_read_on_from_where_it_was_left_also_across_its_growth(path):
    with closing(Ledger(path)) as ledger:
        tail, written = Tail(path), 0
        assert (len(tail.read()), tail.read().dtype) == (0, DTYPE)
        for count in (1, 2, 4095, 4096, 4097, 65536, 3 * 65536 + 1, 0, 5):
            for number in range(written, written + count):
                ledger.write(Kind.SENT, number, number % 5, -number)
            written += count
            assert np.array_equal(tail.read(), read(path))
            assert len(tail.read()) == written
    assert np.array_equal(tail.read(), read(path))


def test_what_another_process_writes_meanwhile_is_read_in_order_and_never_torn(path, until):
    acknowledged = 2 * 65536 + 10
    command = [sys.executable, "-c", WRITER, str(path), str(acknowledged)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as writer:
        until(path.exists)
        tail, counts = Tail(path), [0]
        while counts[-1] < acknowledged:
            found = tail.read()
            counts.append(len(found))
            new = found[counts[-2] :]
            assert np.array_equal(new["sequence"], np.arange(counts[-2], counts[-1]))
            assert np.array_equal(new["value"], new["sequence"] * 3)
            assert (new["kind"] == Kind.RECEIVED).all()
        writer.kill()
        writer.wait()
    assert len(set(counts)) > 2
    assert np.array_equal(tail.read(), read(path))


def test_a_torn_record_ends_what_is_read_until_it_is_whole(path):
    torn = RECORD.pack(4, 3, 3, 3, 0, 0)
    path.write_bytes(ledger_bytes(rows(3)) + torn + ledger_bytes(rows(5))[5 * RECORD.size :])
    tail = Tail(path)
    assert tail.read()["sequence"].tolist() == [0, 1, 2]
    assert tail.read()["sequence"].tolist() == [0, 1, 2]
    path.write_bytes(ledger_bytes(rows(5)))
    assert tail.read()["sequence"].tolist() == [0, 1, 2, 3, 4]


def test_records_are_told_by_their_kinds(path):
    kinds = [Kind.SENT, Kind.UP, Kind.SENT, Kind.DOWN]
    path.write_bytes(ledger_bytes([record(kind, 1, 0, 0, 0) for kind in kinds]))
    records = read(path)
    assert are(records, Kind.SENT).tolist() == [True, False, True, False]
    assert are(records, Kind.DOWN, Kind.UP).tolist() == [False, True, False, True]
    assert not are(records, Kind.GAP).any()
    assert are(records[:0], Kind.SENT).tolist() == []


def test_numpy_asks_no_kind_for_anything(path, monkeypatch):
    asked = []
    monkeypatch.setattr(type(Kind), "__getattr__", lambda _, name: asked.append(name), raising=False)
    path.write_bytes(ledger_bytes(rows(3)))
    assert are(read(path), Kind.RECEIVED, Kind.SENT).all()
    assert asked == []
