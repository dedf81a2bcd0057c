import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.protocols.eventlog import EventLog, Gap
from labkit.workload import Scheduled

# A busy machine must not fail a test.
SOME = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


def event(sequence, topic="t0"):
    return Scheduled(sequence * 1000, sequence, topic, b"%d" % sequence)


def filled(count, capacity=100, start=0, topics=1):
    """A log to which that many events were appended, on topics in turn."""
    log = EventLog(capacity)
    for sequence in range(start, start + count):
        log.append(event(sequence, f"t{sequence % topics}"))
    return log


def sequences(items):
    return [item.sequence for item in items]


def test_an_empty_log_has_nothing_and_nothing_is_missing_at_its_beginning():
    log = EventLog()
    assert (log.oldest, log.next, log.latest(), log.latest("t0"), log.get(0)) == (0, 0, None, None, None)
    assert log.after(-1) == []
    with pytest.raises(Gap):
        log.after(0)


def test_after_a_cursor_come_the_very_events_that_were_appended_oldest_first():
    log, items = EventLog(10), [event(number) for number in range(5)]
    for item in items:
        log.append(item)
    assert [found is item for found, item in zip(log.after(1), items[2:], strict=True)] == [True] * 3
    assert log.after(-1) == items


def test_after_the_newest_event_nothing_follows():
    assert filled(5).after(4) == []


def test_a_limit_gives_the_oldest_of_those_that_follow():
    log = filled(10)
    assert sequences(log.after(2, limit=3)) == [3, 4, 5]
    assert sequences(log.after(2, limit=7)) == [3, 4, 5, 6, 7, 8, 9]
    assert sequences(log.after(2, limit=100)) == [3, 4, 5, 6, 7, 8, 9]
    assert log.after(9, limit=1) == []


def test_a_limit_of_none_at_all_gives_none():
    assert filled(10).after(2, limit=0) == []


def test_a_topic_gives_its_own_events_only_and_the_limit_counts_these():
    log = filled(12, topics=3)
    assert sequences(log.after(0, "t1")) == [1, 4, 7, 10]
    assert sequences(log.after(1, "t1")) == [4, 7, 10]
    assert sequences(log.after(0, "t1", 2)) == [1, 4]
    assert log.after(0, "elsewhere") == []


def test_when_full_the_oldest_goes_and_all_others_stay():
    log = filled(10, capacity=4)
    assert (log.oldest, log.next) == (6, 10)
    assert sequences(log.after(5)) == [6, 7, 8, 9]
    assert [log.get(number) is None for number in range(12)] == [True] * 6 + [False] * 4 + [True] * 2


def test_up_to_its_capacity_nothing_goes():
    log = filled(4, capacity=4)
    assert sequences(log.after(-1)) == [0, 1, 2, 3]
    log.append(event(4))
    with pytest.raises(Gap):
        log.after(-1)
    assert sequences(log.after(0)) == [1, 2, 3, 4]


@pytest.mark.parametrize("cursor", [-100, -1, 0, 4])
def test_an_evicted_cursor_is_a_gap_that_says_what_is_asked_and_what_is_kept(cursor):
    with pytest.raises(Gap) as caught:
        filled(10, capacity=4).after(cursor)
    assert (caught.value.after, caught.value.oldest) == (cursor, 6)
    assert str(cursor) in str(caught.value)
    assert "6" in str(caught.value)


@pytest.mark.parametrize("cursor", [10, 11, 99_999_999])
def test_a_cursor_from_the_future_is_a_gap_rather_than_nothing_new(cursor):
    with pytest.raises(Gap) as caught:
        filled(10, capacity=4).after(cursor)
    assert (caught.value.after, caught.value.oldest) == (cursor, 6)


@pytest.mark.parametrize("topic", ["t0", "elsewhere"])
def test_a_gap_is_raised_whatever_the_topic_and_the_limit(topic):
    with pytest.raises(Gap):
        filled(10, capacity=4).after(0, topic, 1)


def test_a_gap_is_over_once_the_reader_goes_on_before_the_oldest():
    log = filled(10, capacity=4)
    with pytest.raises(Gap) as caught:
        log.after(1)
    assert sequences(log.after(caught.value.oldest - 1)) == [6, 7, 8, 9]


def test_a_log_may_begin_at_any_event_and_knows_nothing_before_it():
    log = filled(3, start=10)
    assert (log.oldest, log.next) == (10, 13)
    assert sequences(log.after(9)) == [10, 11, 12]
    with pytest.raises(Gap):
        log.after(8)


@pytest.mark.parametrize("sequence", [0, 3, 4, -1])
def test_an_event_that_does_not_follow_the_newest_is_refused_and_changes_nothing(sequence):
    log = filled(5)
    with pytest.raises(ValueError, match=rf"event {sequence} does not follow 4"):
        log.append(event(sequence))
    assert sequences(log.after(-1)) == [0, 1, 2, 3, 4]
    assert (log.next, log.latest()) == (5, event(4))
    log.append(event(5))
    assert log.next == 6


def test_an_event_may_overtake_those_of_other_topics_but_not_of_its_own():
    log = EventLog()
    for sequence, topic in ((5, "t1"), (3, "t0"), (9, "t1"), (8, "t0")):
        log.append(event(sequence, topic))
    assert (log.oldest, log.next) == (3, 10)
    assert sequences(log.after(3, "t0")) == [8]
    assert sequences(log.after(2)) == [3, 5, 8, 9]
    with pytest.raises(ValueError, match="event 7 does not follow 8"):
        log.append(event(7, "t0"))


def test_numbers_that_nobody_used_are_left_out_and_are_no_gap():
    log = EventLog()
    for sequence in (2, 3, 7, 11):
        log.append(event(sequence))
    assert (log.oldest, log.next) == (2, 12)
    assert [sequences(log.after(cursor)) for cursor in (1, 3, 5, 7, 11)] == [[2, 3, 7, 11], [7, 11], [7, 11], [11], []]
    assert [log.get(sequence) for sequence in (3, 4, 7)] == [event(3), None, event(7)]
    assert sequences(log.after(2, limit=2)) == [3, 7]


def test_a_full_log_goes_on_with_the_next_event_there_is():
    log = EventLog(2)
    for sequence in (0, 5, 9):
        log.append(event(sequence))
    assert (log.oldest, sequences(log.after(4))) == (5, [5, 9])
    with pytest.raises(Gap):
        log.after(3)


def test_of_what_came_before_its_first_event_a_log_knows_nothing():
    log = EventLog(first=10)
    assert (log.oldest, log.next, log.after(9)) == (10, 10, [])
    for cursor in (8, 10):
        with pytest.raises(Gap) as caught:
            log.after(cursor)
        assert (caught.value.after, caught.value.oldest) == (cursor, 10)
    log.append(event(10))
    assert sequences(log.after(9)) == [10]
    with pytest.raises(Gap):
        log.after(8)


def test_the_latest_is_the_newest_of_all_or_of_a_topic():
    log = filled(8, topics=3)
    assert log.latest() == event(7, "t1")
    assert [log.latest(topic) for topic in ("t0", "t1", "t2", "t3")] == [
        event(6, "t0"),
        event(7, "t1"),
        event(5, "t2"),
        None,
    ]


def test_what_after_returns_is_the_callers_own():
    log = filled(3)
    log.after(-1).clear()
    assert sequences(log.after(-1)) == [0, 1, 2]


TOPICS = ["a", "b", "c"]
APPENDED = st.lists(st.tuples(st.sampled_from(TOPICS), st.just(1) | st.integers(1, 4)), max_size=30)
"""Each event's topic, and how far its number lies above that of the one before."""
QUESTIONS = st.lists(
    st.tuples(st.integers(-3, 40), st.none() | st.sampled_from([*TOPICS, "d"]), st.none() | st.integers(1, 8)),
    min_size=1,
    max_size=10,
)


@SOME
@given(APPENDED, st.integers(1, 12), st.integers(0, 5), QUESTIONS)
def test_it_answers_as_a_plain_list_of_the_newest_events_does(appended, capacity, start, questions):
    log, every, sequence = EventLog(capacity), [], start - 1
    for topic, step in appended:
        sequence += step
        log.append(event(sequence, topic))
        every.append(event(sequence, topic))
    kept = every[-capacity:]
    known = range(kept[0].sequence - 1, sequence + 1) if kept else range(-1, 0)
    for cursor, topic, limit in questions:
        try:
            answer = log.after(cursor, topic, limit)
        except Gap as gap:
            answer = (gap.after, gap.oldest)
        wanted = [item for item in kept if item.sequence > cursor and topic in (None, item.topic)][:limit]
        assert answer == (wanted if cursor in known else (cursor, kept[0].sequence if kept else 0))
        assert log.get(cursor) == next((item for item in kept if item.sequence == cursor), None)
        assert log.latest(topic) == next((item for item in reversed(every) if topic in (None, item.topic)), None)


@SOME
@given(st.lists(st.integers(0, 6), max_size=12), st.integers(8, 20), st.integers(1, 4))
def test_a_reader_that_pages_on_from_its_last_event_sees_all_in_order(batches, capacity, page):
    log, seen = EventLog(capacity), [-1]
    for batch in batches:
        for _ in range(batch):
            log.append(event(log.next))
        while found := log.after(seen[-1], limit=page):
            seen += sequences(found)
    assert seen == list(range(-1, sum(batches)))
