import json
import math
import re
from itertools import pairwise
from statistics import median, pstdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.errors import UsageError
from labkit.event import Event, decode, encode
from labkit.workload import MAX_BYTES, MAX_DURATION, MAX_SIZE, WARMUP, Workload, digest

# A busy machine must not fail a test.
SOME = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])

SMALLEST = len(encode(Event(0, "t0", 0, "")))

WORKLOADS = st.builds(
    Workload,
    rate=st.floats(200, 1000),
    duration=st.floats(0.1, 0.5),
    size=st.integers(SMALLEST + 4, 600),
    subscribers=st.integers(1, 20),
    topics=st.integers(1, 30),
    arrival=st.sampled_from(["constant", "poisson", "bursty"]),
    sizes=st.sampled_from(["fixed", "lognormal"]),
    seed=st.integers(0, 2**32 - 1),
)


def refusal(**fields):
    """The one sentence with which a workload of these fields is refused."""
    with pytest.raises(UsageError) as caught:
        Workload(**fields)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_three_seconds_at_200_per_second_are_600_events_of_exactly_the_size():
    workload = Workload(rate=200, duration=3, size=256)
    schedule = workload.schedule()
    assert [item.due_ns for item in schedule] == [number * 5_000_000 for number in range(600)]
    assert {len(item.raw) for item in schedule} == {256}
    assert workload.length == 3


@pytest.mark.parametrize(
    ("rate", "duration", "count"),
    [(0.1, 0.1, 1), (10, 0.1, 1), (3, 1, 3), (30, 0.1, 3), (7, 3, 21), (1000, 0.7, 700), (49, 1, 49), (2.5, 1, 3)],
)
def test_a_constant_rate_gives_an_event_at_each_step_that_begins_within_the_duration(rate, duration, count):
    assert len(Workload(rate=rate, duration=duration).schedule()) == count


@SOME
@given(WORKLOADS)
def test_due_times_ascend_within_the_duration_and_sequence_numbers_follow_the_warm_up(workload):
    schedule = workload.schedule()
    due = [item.due_ns for item in schedule]
    assert due == sorted(due)
    assert due[0] >= 0
    assert due[-1] < workload.duration * 1e9
    assert [item.sequence for item in schedule] == list(range(workload.first, workload.first + len(schedule)))


@SOME
@given(WORKLOADS)
def test_the_bytes_are_those_of_the_event_that_the_schedule_names(workload):
    for item in workload.schedule():
        event = decode(item.raw)
        assert (event.sequence, event.topic) == (item.sequence, item.topic)
        assert event.offset_ns == item.due_ns // 1000 * 1000
        assert encode(event) == item.raw


@SOME
@given(WORKLOADS)
def test_fixed_sizes_are_exact_and_no_size_is_below_the_envelope_or_above_the_limit(workload):
    sizes = [(len(item.raw), len(encode(Event(item.sequence, item.topic, 0, "")))) for item in workload.schedule()]
    if workload.sizes == "fixed":
        assert {size for size, _ in sizes} == {workload.size}
    assert all(bare <= size <= MAX_SIZE for size, bare in sizes)


@SOME
@given(WORKLOADS)
def test_equal_workloads_have_equal_digests_even_after_json(workload):
    again = Workload(**json.loads(json.dumps(workload.to_json())))
    assert again == workload
    assert digest(again.schedule()) == digest(workload.schedule())


def test_the_digest_is_the_same_in_every_process():
    expected = "48caa2dad45837a970cc471d9610975b8c87f00a3b1ba78b31aa313f4d433656"
    assert digest(Workload(rate=100, duration=0.2, size=200, topics=4, seed=42).schedule()) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"size": 301},
        {"rate": 101},
        {"duration": 0.6},
        {"topics": 2},
        {"arrival": "poisson"},
        {"arrival": "bursty"},
        {"sizes": "lognormal"},
    ],
    ids=str,
)
def test_another_workload_has_another_digest(change):
    usual = {"rate": 100, "duration": 0.5, "size": 300}
    assert digest(Workload(**{**usual, **change}).schedule()) != digest(Workload(**usual).schedule())


@pytest.mark.parametrize("arrival", ["constant", "poisson", "bursty"])
@pytest.mark.parametrize("topics", [1, 5])
def test_another_seed_gives_other_bytes_whatever_the_arrival(arrival, topics):
    one, other = (
        Workload(duration=0.2, arrival=arrival, topics=topics, sizes="lognormal", seed=seed) for seed in (1, 2)
    )
    assert digest(one.schedule()) != digest(other.schedule())


def test_subscribers_do_not_change_what_is_offered():
    assert digest(Workload(subscribers=1).schedule()) == digest(Workload(subscribers=500).schedule())


@pytest.mark.parametrize(("rate", "duration"), [(200, 20), (2000, 2), (1234.5, 3)])
@pytest.mark.parametrize(("arrival", "tolerance"), [("constant", 0.001), ("bursty", 0.01), ("poisson", 0.06)])
def test_every_arrival_process_offers_its_mean_rate(arrival, tolerance, rate, duration):
    count = len(Workload(rate=rate, duration=duration, arrival=arrival).schedule())
    assert count == pytest.approx(rate * duration, rel=tolerance)


def gaps(arrival):
    due = [item.due_ns / 1e9 for item in Workload(rate=1000, duration=4, arrival=arrival).schedule()]
    return [after - before for before, after in pairwise(due)]


def test_poisson_gaps_spread_as_widely_as_they_are_long():
    lengths = gaps("poisson")
    assert pstdev(lengths) == pytest.approx(1e-3, rel=0.1)
    assert median(lengths) == pytest.approx(math.log(2) * 1e-3, rel=0.1)


def test_bursts_of_twenty_come_at_ten_times_the_rate():
    lengths = gaps("bursty")
    assert [round(length * 1e6) for length in lengths[:20]] == [100] * 19 + [18_100]
    assert sum(length > 1e-3 for length in lengths) == len(lengths) // 20


@pytest.mark.parametrize("size", [300, 2000])
def test_lognormal_sizes_have_the_size_as_their_median_and_a_tail_on_both_sides(size):
    lengths = [len(item.raw) for item in Workload(rate=1000, duration=3, size=size, sizes="lognormal").schedule()]
    assert median(lengths) == pytest.approx(size, rel=0.06)
    assert min(lengths) < size / 2
    assert max(lengths) > size * 4


def test_lognormal_sizes_are_held_between_the_envelope_and_the_limit():
    small = [len(item.raw) for item in Workload(size=SMALLEST, sizes="lognormal").schedule()]
    assert min(small) == SMALLEST
    large = [len(item.raw) for item in Workload(rate=8, duration=1, size=MAX_SIZE, sizes="lognormal").schedule()]
    assert max(large) == MAX_SIZE


@pytest.mark.parametrize("size", [SMALLEST, SMALLEST + 1, 65_536 + SMALLEST, 70_000, MAX_SIZE])
def test_the_smallest_and_the_largest_size_are_exact(size):
    assert {len(item.raw) for item in Workload(rate=20, duration=0.1, size=size).schedule()} == {size}


@SOME
@given(st.integers(2, 40), st.integers(1, 60))
def test_each_event_is_wanted_by_exactly_the_subscribers_of_its_topic(topics, subscribers):
    workload = Workload(rate=400, duration=0.2, topics=topics, subscribers=subscribers)
    wanted = {k: workload.interest(k) for k in range(subscribers)}
    for item in workload.schedule():
        number = int(item.topic.removeprefix("t"))
        assert number < topics
        assert [k for k in wanted if wanted[k] == item.topic] == list(range(number, subscribers, topics))
    assert None not in wanted.values()


def test_every_topic_gets_its_share_of_the_events():
    topics = [item.topic for item in Workload(rate=1000, duration=4, topics=4).schedule()]
    assert set(topics) == {"t0", "t1", "t2", "t3"}
    assert all(topics.count(topic) == pytest.approx(1000, rel=0.15) for topic in set(topics))


def test_with_one_topic_every_subscriber_takes_all():
    workload = Workload(subscribers=3)
    assert [workload.interest(k) for k in range(3)] == [None] * 3
    assert {item.topic for item in workload.schedule()} == {"t0"}


@pytest.mark.parametrize("topics", [1, 2, 3, 10, 11, 999, 1000])
def test_the_warm_up_covers_every_topic_equally_and_ends_where_the_load_begins(topics):
    workload = Workload(rate=10, duration=0.2, topics=topics)
    warmup = workload.warmup()
    assert len(warmup) >= WARMUP
    assert [item.sequence for item in warmup] == list(range(workload.first))
    assert workload.schedule()[0].sequence == workload.first
    counts = {f"t{n}": 0 for n in range(topics)}
    for item in warmup:
        counts[item.topic] += 1
        assert decode(item.raw) == Event(item.sequence, item.topic, 0, "warm-up")
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("name", ["rate", "duration", "speed"])
@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan, math.inf, -math.inf, True, None, "5", 1e15, 2 + 0j], ids=repr)
def test_a_number_out_of_range_is_refused_by_name_value_and_limits(name, value):
    assert re.match(
        rf"{name} is {re.escape(repr(value))}; it has to be a number from \S+ to \S+ ", refusal(**{name: value})
    )


@pytest.mark.parametrize("name", ["subscribers", "topics", "size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, 300.0, math.nan, math.inf, True, None, "5", 10**9], ids=repr)
def test_a_count_out_of_range_or_not_whole_is_refused_by_name_value_and_limits(name, value):
    text = refusal(**{name: value})
    assert re.match(rf"{name} is {re.escape(repr(value))}; it has to be a whole number from \S+ to \S+ ", text)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None, "1"])
def test_a_seed_out_of_range_is_refused(seed):
    assert refusal(seed=seed).startswith(f"seed is {seed!r}; it has to be a whole number from 0 to 4,294,967,295")


@pytest.mark.parametrize(
    ("topics", "smallest"), [(1, SMALLEST), (10, SMALLEST), (11, SMALLEST + 1), (101, SMALLEST + 2)]
)
def test_a_size_below_the_envelope_is_refused_with_the_smallest_that_there_is(topics, smallest):
    text = refusal(size=smallest - 1, topics=topics)
    assert text.startswith(f"size is {smallest - 1}; ")
    assert f"from {smallest} to 1,000,000 bytes" in text
    workload = Workload(size=smallest, topics=topics, rate=400, duration=1)
    assert {len(item.raw) for item in workload.schedule()} == {smallest}


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("arrival", "random", "constant, poisson, bursty"),
        ("arrival", [], "constant, poisson, bursty"),
        ("sizes", "", "fixed, lognormal"),
        ("sizes", None, "fixed"),
        ("sizes", {}, "fixed"),
    ],
)
def test_an_unknown_choice_is_refused_with_those_there_are(name, value, choices):
    text = refusal(**{name: value})
    assert text.startswith(f"{name} is {value!r}; ")
    assert choices in text


def test_more_events_than_fit_are_refused():
    assert "10,000,000" in refusal(rate=100_000, duration=101)
    assert Workload(rate=100_000, duration=100, size=SMALLEST).rate == 100_000


@pytest.mark.parametrize(
    ("rate", "duration", "size"), [(1000, 10, 200_001), (1000, 10.001, 200_000), (1_000_000, 3, MAX_SIZE)]
)
def test_more_bytes_than_fit_are_refused_with_all_three_numbers(rate, duration, size):
    said = f"{rate:,} events/s of {size:,} bytes for {duration:g} s are over {MAX_BYTES:,} bytes; lower one."
    assert refusal(rate=rate, duration=duration, size=size) == said


def test_as_many_bytes_as_fit_are_taken_and_so_is_each_limit_by_itself():
    assert Workload(rate=1000, duration=10, size=200_000).rate * 10 * 200_000 == MAX_BYTES
    for name, most in {"rate": 1_000_000, "duration": MAX_DURATION, "size": MAX_SIZE}.items():
        assert getattr(Workload(**{name: most}), name) == most


def test_a_rate_that_gives_no_event_is_refused():
    workload = Workload(rate=0.1, duration=0.1, arrival="poisson")
    with pytest.raises(UsageError, match=r"A rate of 0\.1/s gives no event within 0\.1 s"):
        workload.schedule()


@pytest.fixture
def trace(tmp_path):
    """Writes a trace of (time, type, data) and returns its path."""

    def write(*lines):
        path = tmp_path / "trace.jsonl"
        fields = [dict(zip(("time", "type", "data"), line, strict=False)) for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in fields))
        return str(path)

    return write


def test_a_trace_gives_its_own_times_topics_and_data(trace):
    workload = Workload(trace=trace((10, "a.b", {"n": 1}), (12.5, "c", [2]), (11, "d", None)), subscribers=2)
    schedule = workload.schedule()
    assert [(item.due_ns, item.sequence, item.topic) for item in schedule] == [
        (0, 10, "a.b"),
        (1_000_000_000, 11, "d"),
        (2_500_000_000, 12, "c"),
    ]
    assert [decode(item.raw).data for item in schedule] == [{"n": 1}, None, [2]]
    assert workload.length == 2.5


@pytest.mark.parametrize(("speed", "seconds"), [(1, 8), (2, 4), (0.5, 16), (8000, 0.001)])
def test_speed_compresses_the_time_of_a_trace(trace, speed, seconds):
    workload = Workload(trace=trace((0, "a"), (2, "a"), (8, "a")), speed=speed)
    assert [item.due_ns / 1e9 for item in workload.schedule()] == [0, seconds / 4, seconds]
    assert workload.length == seconds


def test_speed_changes_nothing_without_a_trace():
    assert digest(Workload(speed=10).schedule()) == digest(Workload().schedule())


def test_every_subscriber_of_a_trace_takes_all(trace):
    workload = Workload(trace=trace((0, "a"), (1, "b")), subscribers=4, topics=2)
    assert [workload.interest(k) for k in range(4)] == [None] * 4
    assert [item.sequence for item in workload.schedule()] == [workload.first, workload.first + 1]


def test_a_trace_of_one_event_is_a_workload(trace):
    workload = Workload(trace=trace((1_700_000_000, "a", 1)))
    assert [item.due_ns for item in workload.schedule()] == [0]
    assert workload.length == 0


def test_an_equal_trace_has_an_equal_digest_and_another_has_another(trace):
    one = digest(Workload(trace=trace((0, "a", 1), (1, "b", 2))).schedule())
    assert digest(Workload(trace=trace((100, "a", 1), (101, "b", 2))).schedule()) == one
    assert digest(Workload(trace=trace((0, "a", 1), (1, "b", 3))).schedule()) != one
    assert digest(Workload(trace=trace((0, "a", 1), (2, "b", 2))).schedule()) != one


@pytest.mark.parametrize(
    ("seconds", "speed"),
    [(3601, 1), (7199.5, 1), (86_400 * 365, 1), (3600, 0.5), (100, 1e-3), (10**8, 20), (9e10, 1)],
)
def test_a_trace_too_long_at_its_speed_names_a_speed_that_works(trace, seconds, speed):
    path = trace((0, "a"), (seconds, "a"))
    with pytest.raises(UsageError) as caught:
        Workload(trace=path, speed=speed).schedule()
    text = str(caught.value)
    assert "over the limit of 3600 s" in text
    advice = re.search(r"--speed (\S+) replays", text)
    assert advice
    assert Workload(trace=path, speed=float(advice[1])).length <= 60


def test_a_trace_of_just_an_hour_is_taken(trace):
    assert Workload(trace=trace((0, "a"), (3600, "a"))).length == 3600


def test_a_trace_whose_span_is_beyond_all_numbers_is_refused(trace):
    for last in (1e308, 86_400e9):  # the second is a day's log whose times are nanoseconds
        with pytest.raises(UsageError, match="100,000,000,000"):
            Workload(trace=trace((0, "a"), (last, "a"))).schedule()


def test_an_event_of_a_trace_beyond_a_million_bytes_is_refused_by_number_and_size(trace):
    fill = MAX_SIZE - len(encode(Event(0, "a", 0, "")))
    assert len(Workload(trace=trace((0, "a", "x" * fill))).schedule()[0].raw) == MAX_SIZE
    workload = Workload(trace=trace((0, "a"), (1, "a", "x" * (fill + 1))))
    with pytest.raises(UsageError, match=r"^Event 2 of the trace is 1,000,001 bytes; the limit is 1,000,000\.$"):
        workload.schedule()


def test_a_trace_that_is_gone_is_refused_when_it_is_read(tmp_path):
    workload = Workload(trace=str(tmp_path / "gone.jsonl"))
    with pytest.raises(UsageError, match=r"gone\.jsonl.* does not exist"):
        workload.schedule()


@SOME
@given(st.floats(1, 5000), st.integers(1, 100), st.integers(0, 3))
def test_the_schedule_of_a_shorter_load_is_the_beginning_of_a_longer_ones(rate, count, topics):
    """What a live trial relies on: of constant arrivals n take n / rate seconds, and the shorter load has exactly n."""
    count = max(count, math.ceil(0.1 * rate))
    made = {"rate": rate, "topics": topics + 1, "sizes": "lognormal", "subscribers": 1}
    shorter = Workload(duration=count / rate, **made).schedule()
    longer = Workload(duration=count / rate + 1, **made).schedule()
    assert len(shorter) == count
    assert longer[:count] == shorter
    assert len(longer) > count
