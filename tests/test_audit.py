import numpy as np
import pytest
from histories import FIRST, LATENCY, LATENESS, START, STEP, History, record
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.audit import Fate
from labkit.ledger import EVERYONE, NO_SEQUENCE, Kind

WRONG = -1
"""No CRC-32."""


def found(outcome):
    """Every count of an outcome."""
    return {
        "owed": int(outcome.owed.sum()),
        "delivered": outcome.delivered,
        "lost": outcome.lost,
        "late": outcome.count(Fate.LATE),
        "rejected": outcome.count(Fate.REJECTED),
        "gap_seen": outcome.count(Fate.GAP_SEEN),
        "silent": outcome.count(Fate.SILENT),
        "duplicated": outcome.duplicated,
        "reordered": outcome.reordered,
        "unexpected": outcome.unexpected,
        "corrupt": outcome.corrupt,
        "verdict": outcome.verdict,
    }


def only(history, **planted):
    """The counts of a history with these faults and no other."""
    owed = int(history.offer.wanted.sum())
    lost = sum(planted.get(name, 0) for name in ("rejected", "gap_seen", "silent"))
    none = dict.fromkeys(("late", "rejected", "gap_seen", "silent", "duplicated", "reordered", "unexpected"), 0)
    verdict = "lossy" if lost else "complete"
    return {
        "owed": owed,
        "delivered": owed - lost,
        "lost": lost,
        **none,
        "corrupt": 0,
        "verdict": verdict,
        **planted,
    }


def fates(outcome, subscriber=0):
    return [Fate(fate) for fate in outcome.fate[subscriber]]


def test_a_history_without_faults_is_complete():
    history = History(events=20, subscribers=3)
    outcome = history.judge()
    assert found(outcome) == only(history)
    assert int(outcome.owed.sum()) == 60
    assert set(fates(outcome)) == {Fate.ON_TIME}
    assert outcome.noticed_ns is None
    assert outcome.recovered_ns is None


def test_arrival_times_and_the_producers_lateness_are_those_in_the_ledgers():
    history = History(events=3, subscribers=2)
    history.arrivals[1, 2] += 77
    history.lose(0, subscriber=1)
    outcome = history.judge()
    due = [START, START + STEP, START + 2 * STEP]
    assert outcome.arrived_ns.tolist() == [
        [at + LATENCY for at in due],
        [0, due[1] + LATENCY, due[2] + LATENCY + 77],
    ]
    assert outcome.lateness_ns.tolist() == [LATENESS] * 3


def test_one_event_that_never_came_and_nobody_told_is_one_silent_loss():
    history = History()
    history.lose(5, subscriber=1)
    outcome = history.judge()
    assert found(outcome) == only(history, silent=1)
    assert np.argwhere(outcome.arrived_ns == 0).tolist() == [[1, 5]]
    assert outcome.fate[1, 5] == Fate.SILENT


@pytest.mark.parametrize("kind", [Kind.RECEIVED, Kind.REPEATED])
def test_an_event_that_came_again_is_one_duplicate(kind):
    history = History()
    history.consumed(kind, history.due(5) + LATENCY + 5, number=5, subscriber=1)
    outcome = history.judge()
    assert found(outcome) == only(history, duplicated=1)
    assert outcome.arrived_ns[1, 5] == history.due(5) + LATENCY


def test_three_copies_are_two_duplicates_one_of_which_the_application_saw():
    history = History()
    history.consumed(Kind.RECEIVED, history.due(5) + LATENCY + 5, number=5)
    history.consumed(Kind.REPEATED, history.due(9), number=5)
    outcome = history.judge()
    assert found(outcome) == only(history, duplicated=2)
    assert outcome.twice == 1


def test_a_duplicate_long_after_newer_events_is_not_reordered():
    history = History()
    history.consumed(Kind.REPEATED, history.due(19) + STEP, number=0)
    assert found(history.judge()) == only(history, duplicated=1)


def test_two_events_that_swapped_places_are_one_reordered():
    history = History()
    arrivals = history.arrivals
    arrivals[0, 5], arrivals[0, 6] = arrivals[0, 6], arrivals[0, 5]
    assert found(history.judge()) == only(history, reordered=1)


def test_one_event_that_all_others_overtook_is_one_reordered():
    history = History()
    history.arrivals[0, 0] = history.due(19) + STEP
    assert found(history.judge()) == only(history, reordered=1)


def test_order_is_judged_for_each_subscriber_alone():
    history = History()
    for number in range(20):
        history.arrivals[1, number] += 50 * STEP
    assert found(history.judge()) == only(history)


def test_a_wrong_checksum_is_corrupt_and_the_event_has_not_arrived():
    history = History()
    at = history.lose(5)
    history.consumed(Kind.RECEIVED, at, number=5, value=WRONG)
    assert found(history.judge()) == only(history, corrupt=1, silent=1)


def test_a_sound_copy_makes_up_for_a_corrupt_one_and_is_no_duplicate():
    history = History()
    history.consumed(Kind.RECEIVED, history.due(5), number=5, value=WRONG)
    outcome = history.judge()
    assert found(outcome) == only(history, corrupt=1)
    assert outcome.arrived_ns[0, 5] == history.due(5) + LATENCY


def test_the_bytes_of_another_event_are_corrupt():
    history = History()
    at = history.lose(5)
    history.consumed(Kind.RECEIVED, at, number=5, value=int(history.offer.crc[6]))
    assert found(history.judge()) == only(history, corrupt=1, silent=1)


def test_bytes_that_are_no_event_are_corrupt():
    history = History()
    history.consumed(Kind.RECEIVED, history.due(3), value=123)
    assert found(history.judge()) == only(history, corrupt=1)


@pytest.mark.parametrize("number", [20, 21, 5000])
def test_a_sequence_that_was_never_given_out_is_unexpected(number):
    history = History(events=20)
    history.consumed(Kind.RECEIVED, history.due(3), number=number)
    assert found(history.judge()) == only(history, unexpected=1)


@pytest.mark.parametrize("subscriber", [2, 3, EVERYONE])
def test_an_unknown_subscriber_is_unexpected(subscriber):
    history = History(subscribers=2)
    history.consumed(Kind.RECEIVED, history.due(3), number=3, subscriber=subscriber)
    assert found(history.judge()) == only(history, unexpected=1)


def test_an_event_of_a_topic_that_was_not_subscribed_is_unexpected():
    wanted = np.array([[True, False] * 5, [False, True] * 5])
    history = History(events=10, wanted=wanted)
    history.consumed(Kind.RECEIVED, history.due(3), number=3, subscriber=0)
    outcome = history.judge()
    assert found(outcome) == only(history, unexpected=1)
    assert int(outcome.owed.sum()) == 10
    assert outcome.arrived_ns[0, 3] == 0


def test_a_rejected_delivery_is_lost_for_that_subscriber_and_the_producer_knew():
    history = History()
    at = history.lose(5, subscriber=1)
    history.produced(Kind.REJECTED, at, number=5, subscriber=1, value=500)
    history.lose(6, subscriber=1)
    history.lose(5, subscriber=0)
    outcome = history.judge()
    assert found(outcome) == only(history, rejected=1, silent=2)
    assert outcome.fate[1, 5] == Fate.REJECTED


def test_a_rejection_for_everyone_covers_every_subscriber_that_did_not_get_it():
    history = History(subscribers=3)
    for subscriber in (0, 2):
        history.lose(5, subscriber)
    history.produced(Kind.REJECTED, history.due(5), number=5)
    outcome = history.judge()
    assert found(outcome) == only(history, rejected=2)
    assert outcome.fate[:, 5].tolist() == [Fate.REJECTED, Fate.ON_TIME, Fate.REJECTED]


def test_a_failed_attempt_alone_is_no_rejection():
    history = History()
    at = history.lose(5)
    history.produced(Kind.FAILED, at, number=5, subscriber=0, value=500)
    assert found(history.judge()) == only(history, silent=1)


def test_a_rejected_delivery_that_arrived_all_the_same_is_delivered():
    history = History()
    history.produced(Kind.REJECTED, history.due(5), number=5, subscriber=0)
    assert found(history.judge()) == only(history)


def test_a_rejection_says_more_than_a_gap():
    history = History()
    at = history.lose(5)
    history.produced(Kind.REJECTED, at, number=5, subscriber=0)
    history.gap(at + 1, after=4, oldest=6)
    assert found(history.judge()) == only(history, rejected=1)


def test_an_explicit_gap_covers_what_lies_between_its_ends_and_nothing_else():
    history = History()
    for number in (4, 5, 6, 7, 8):
        history.lose(number)
    history.lose(6, subscriber=1)
    history.gap(history.due(9), after=4, oldest=8)
    outcome = history.judge()
    assert found(outcome) == only(history, gap_seen=3, silent=3)
    assert fates(outcome)[4:9] == [Fate.SILENT, Fate.GAP_SEEN, Fate.GAP_SEEN, Fate.GAP_SEEN, Fate.SILENT]
    assert outcome.fate[1, 6] == Fate.SILENT


def test_a_gap_after_a_warm_up_event_covers_the_load_from_its_start():
    history = History()
    history.lose(0)
    history.consumer.append(record(Kind.GAP, history.due(1), FIRST - 1, 0, FIRST + 1))
    assert found(history.judge()) == only(history, gap_seen=1)


@pytest.mark.parametrize("subscriber", [2, EVERYONE - 1])
def test_a_gap_or_a_rejection_of_an_unknown_subscriber_concerns_nobody(subscriber):
    history = History(subscribers=2)
    history.lose(5)
    history.gap(history.due(9), after=4, oldest=6, subscriber=subscriber)
    assert found(history.judge()) == only(history, silent=1)
    history.consumer.clear()
    history.produced(Kind.REJECTED, history.due(5), number=5, subscriber=subscriber)
    assert found(history.judge()) == only(history, silent=1)


def test_a_gap_does_not_unmake_what_arrived():
    history = History()
    history.gap(history.due(9), after=0, oldest=8)
    assert found(history.judge()) == only(history)


def test_what_was_due_while_the_consumer_knew_itself_cut_off_is_a_gap_seen():
    history = History()
    for number in (7, 8, 9):
        history.lose(number)
        history.lose(number, subscriber=1)
    history.consumed(Kind.DISCONNECTED, history.due(7) - 1)
    history.consumed(Kind.CONNECTED, history.due(9) + 1)
    outcome = history.judge()
    assert found(outcome) == only(history, gap_seen=3, silent=3)
    assert fates(outcome)[7:10] == [Fate.GAP_SEEN] * 3


def test_what_was_in_flight_behind_the_last_arrival_is_a_gap_seen_too():
    history = History()
    history.lose(5)
    history.lose(6)
    history.consumed(Kind.DISCONNECTED, history.due(6) + STEP // 2)
    history.consumed(Kind.CONNECTED, history.due(6) + STEP // 2 + 1)
    assert found(history.judge()) == only(history, gap_seen=2)


def test_losses_before_the_last_arrival_and_after_the_reconnection_stay_silent():
    history = History()
    for number in (4, 8, 12):
        history.lose(number)
    history.consumed(Kind.DISCONNECTED, history.due(8) - 1)
    history.consumed(Kind.CONNECTED, history.due(9) - 1)
    outcome = history.judge()
    assert found(outcome) == only(history, gap_seen=1, silent=2)
    assert [outcome.fate[0, n] for n in (4, 8, 12)] == [Fate.SILENT, Fate.GAP_SEEN, Fate.SILENT]


def test_a_consumer_that_never_reconnected_knew_of_everything_that_followed():
    history = History(subscribers=1)
    for number in range(5, 20):
        history.lose(number)
    history.consumed(Kind.DISCONNECTED, history.due(5))
    assert found(history.judge()) == only(history, gap_seen=15)


def test_the_producers_view_of_a_connection_does_not_tell_the_consumer():
    history = History()
    history.lose(7)
    history.produced(Kind.DISCONNECTED, history.due(7) - 1)
    history.produced(Kind.CONNECTED, history.due(8) - 1)
    assert found(history.judge()) == only(history, silent=1)


def healing(events=20, cut=8, healed=12):
    """Two subscribers; subscriber 0 gets what was due in the outage only after it, in order, before the next."""
    history = History(events)
    history.outage(history.due(cut) - STEP // 2, history.due(healed) - STEP // 2)
    for number in range(cut, healed):
        history.arrivals[0, number] = history.due(healed) - STEP // 2 + 1000 * (number - cut + 1)
    return history


def test_what_was_due_before_the_heal_and_came_after_it_is_late_and_delivered():
    history = healing()
    outcome = history.judge()
    assert found(outcome) == only(history, late=4)
    assert fates(outcome)[7:13] == [Fate.ON_TIME, *[Fate.LATE] * 4, Fate.ON_TIME]
    assert set(fates(outcome, 1)) == {Fate.ON_TIME}


def test_without_an_outage_nothing_is_late():
    history = healing()
    history.link.clear()
    assert found(history.judge()) == only(history)


def test_the_first_sign_after_the_cut_is_when_it_was_noticed():
    history = healing()
    cut = history.due(8) - STEP // 2
    history.consumed(Kind.DISCONNECTED, cut - 3)
    history.consumed(Kind.CONNECTED, cut - 2)
    history.produced(Kind.FAILED, cut + 800, number=8, subscriber=0)
    history.consumed(Kind.DISCONNECTED, cut + 500)
    assert history.judge().noticed_ns == 500


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.REJECTED, Kind.DISCONNECTED])
def test_either_a_producers_failure_or_disconnection_is_a_sign(kind):
    history = healing()
    history.produced(kind, history.due(8) - STEP // 2 + 70, number=8, subscriber=0)
    assert history.judge().noticed_ns == 70


@pytest.mark.parametrize("kind", [Kind.DISCONNECTED, Kind.GAP])
def test_either_a_consumers_disconnection_or_gap_is_a_sign(kind):
    history = healing()
    history.consumed(kind, history.due(8) - STEP // 2 + 70, number=8)
    assert history.judge().noticed_ns == 70


def test_an_outage_that_nobody_noticed_has_no_time_to_notice():
    history = healing()
    history.consumed(Kind.DISCONNECTED, history.due(2))
    history.consumed(Kind.CONNECTED, history.due(3))
    assert history.judge().noticed_ns is None


def test_recovered_is_when_the_last_subscriber_has_something_new():
    history = healing()
    history.arrivals[1, 12] += 4321
    assert history.judge().recovered_ns == STEP // 2 + LATENCY + 4321


def test_recovered_waits_for_the_last_of_the_past():
    history = healing()
    history.arrivals[0, 8] = history.due(15)
    assert history.judge().recovered_ns == history.due(15) - (history.due(12) - STEP // 2)


def test_what_is_lost_for_good_does_not_put_off_the_recovery():
    history = healing()
    for number in range(8, 12):
        history.lose(number)
    history.lose(12)
    assert history.judge().recovered_ns == STEP // 2 + STEP + LATENCY


def test_a_subscriber_that_got_nothing_new_has_not_recovered():
    history = healing()
    for number in range(12, 20):
        history.lose(number, subscriber=1)
    assert history.judge().recovered_ns is None


def test_an_outage_that_never_healed_has_no_recovery():
    history = healing()
    history.link.pop()
    history.consumed(Kind.DISCONNECTED, history.due(8))
    outcome = history.judge()
    assert outcome.recovered_ns is None
    assert outcome.noticed_ns == STEP // 2


@pytest.mark.parametrize("lost", [0, 1])
def test_a_trial_that_was_not_drained_is_inconclusive(lost):
    history = History()
    if lost:
        history.lose(5)
    assert found(history.judge(drained=False)) == only(history, silent=lost, verdict="inconclusive")


@pytest.mark.parametrize("number", [0, 7, 19])
def test_a_producer_that_left_out_an_event_makes_the_trial_inconclusive_and_the_event_is_not_owed(number):
    history = History()
    del history.producer[number]
    history.lose(number, subscriber=0)
    history.lose(number, subscriber=1)
    outcome = history.judge()
    assert found(outcome) == only(history, owed=38, delivered=38, verdict="inconclusive")
    assert not outcome.owed[:, number].any()
    assert len(outcome.lateness_ns) == 19


def test_an_event_sent_twice_does_not_stand_in_for_one_left_out():
    history = History()
    history.producer[7] = history.producer[6]
    assert history.judge().verdict == "inconclusive"


def test_an_event_that_the_producer_never_offered_is_unexpected_when_it_arrives():
    history = History(subscribers=1)
    del history.producer[19]
    outcome = history.judge()
    assert found(outcome) == only(history, owed=19, delivered=19, unexpected=1, verdict="inconclusive")


def test_a_trial_of_empty_ledgers_owes_nothing_and_is_inconclusive():
    history = History()
    history.producer.clear()
    history.arrivals.clear()
    assert found(history.judge()) == only(history, owed=0, delivered=0, verdict="inconclusive")


def test_warm_up_events_count_for_nothing_whatever_happened_to_them():
    history = History()
    for sequence in range(FIRST):
        at = START - STEP * (FIRST - sequence)
        history.producer.append(record(Kind.SENT, at, sequence, EVERYONE, 200))
        history.producer.append(record(Kind.REJECTED, at, sequence, EVERYONE))
        history.consumer += [
            record(Kind.RECEIVED, at + 9, FIRST - 1 - sequence, 0, WRONG),
            record(Kind.RECEIVED, at + 9, sequence, 77, WRONG),
            record(Kind.REPEATED, at + 9, sequence, 1, 5),
        ]
    outcome = history.judge()
    assert found(outcome) == only(history)
    assert outcome.lateness_ns.tolist() == [LATENESS] * 20


def test_the_ledgers_are_left_as_they_were():
    history = healing()
    before = history.offer.due_ns.copy(), history.offer.wanted.copy()
    first, second = history.judge(), history.judge()
    assert (history.offer.due_ns == before[0]).all()
    assert (history.offer.wanted == before[1]).all()
    assert found(first) == found(second)


def test_all_faults_in_one_history_are_told_apart():
    history = healing(events=30)
    history.lose(20)
    history.produced(Kind.REJECTED, history.lose(21), number=21, subscriber=0)
    history.lose(22)
    history.gap(history.due(23), after=21, oldest=23)
    history.consumed(Kind.RECEIVED, history.lose(24), number=24, value=WRONG)
    history.consumed(Kind.RECEIVED, history.due(25), number=99)
    history.consumed(Kind.RECEIVED, history.due(25), value=0)
    history.consumed(Kind.REPEATED, history.due(27), number=1, subscriber=1)
    arrivals = history.arrivals
    arrivals[1, 28], arrivals[1, 29] = arrivals[1, 29], arrivals[1, 28]
    planted = {"late": 4, "silent": 2, "rejected": 1, "gap_seen": 1, "corrupt": 2, "unexpected": 1}
    assert found(history.judge()) == only(history, **planted, duplicated=1, reordered=1)


CALM = ("fine", "silent", "rejected", "gap", "corrupt", "again", "repeated", "swap")
CUT_OFF = ("late", "silent", "rejected", "gap")
"""What may become of a delivery outside and inside the outage."""


@st.composite
def planted(draw):
    """A random history with faults, and the counts that they amount to."""
    events, subscribers = draw(st.integers(5, 14)), draw(st.integers(1, 3))
    cut = draw(st.integers(1, events - 3))
    healed = draw(st.integers(cut + 1, events - 1))
    calm, cut_off = (st.lists(st.sampled_from(choice), min_size=events, max_size=events) for choice in (CALM, CUT_OFF))
    mask = st.lists(st.booleans(), min_size=events, max_size=events)
    wanted = np.array([draw(mask) for _ in range(subscribers)])
    wanted[:, cut - 1] = True  # what comes last before the outage arrives, so that nothing is in flight
    history = History(events, wanted=wanted)
    heal_at = history.due(healed) - STEP // 2
    history.outage(history.due(cut) - STEP // 2, heal_at)
    counts = dict.fromkeys(("late", "rejected", "gap_seen", "silent", "duplicated", "reordered", "corrupt"), 0)
    for_all = draw(st.sets(st.integers(healed, events - 1), max_size=2))
    for number in for_all:
        history.produced(Kind.REJECTED, history.due(number), number)
    for who in range(subscribers):
        knows = draw(st.booleans())
        if knows:
            history.consumed(Kind.DISCONNECTED, history.due(cut) - STEP // 2 + 1, subscriber=who)
            history.consumed(Kind.CONNECTED, heal_at, subscriber=who)
        outside, inside = draw(calm), draw(cut_off)
        swapped = False
        for number in np.flatnonzero(wanted[who]).tolist():
            at = history.arrivals[who, number]
            within = cut <= number < healed
            what = inside[number] if within else "fine" if number == cut - 1 else outside[number]
            if number in for_all:
                what = "rejected for all"
            before = (who, number - 1)
            if what == "swap":
                fair = before in history.arrivals and number - 1 not in (cut - 1, *range(cut, healed))
                if fair and not swapped and outside[number - 1] in ("fine", "swap"):
                    history.arrivals[before], history.arrivals[who, number] = at, history.arrivals[before]
                    counts["reordered"] += 1
                    swapped = True
                    continue
            swapped = False
            if what == "late":
                history.arrivals[who, number] = heal_at + number
                counts["late"] += 1
            elif what in ("again", "repeated"):
                kind = Kind.RECEIVED if what == "again" else Kind.REPEATED
                history.consumed(kind, at + 1, number, who)
                counts["duplicated"] += 1
            elif what in ("silent", "corrupt", "rejected", "rejected for all", "gap"):
                history.lose(number, who)
                if what == "corrupt":
                    history.consumed(Kind.RECEIVED, at, number, who, WRONG)
                    counts["corrupt"] += 1
                if what == "rejected":
                    history.produced(Kind.REJECTED, at, number, who)
                if what == "gap":
                    history.gap(at, number - 1, number + 1, who)
                told = what == "gap" or (within and knows)
                fate = "rejected" if what.startswith("rejected") else "gap_seen" if told else "silent"
                counts[fate] += 1
    phantoms = [*((who, events + who) for who in range(subscribers)), (subscribers, 0), (EVERYONE, 1)]
    phantoms += [(int(who), int(number)) for who, number in np.argwhere(~wanted)]
    strange = draw(st.lists(st.sampled_from(phantoms), max_size=4))
    for who, number in strange:
        history.consumed(Kind.RECEIVED, history.due(events), number, who)
    malformed = draw(st.integers(0, 3))
    history.consumer += [record(Kind.RECEIVED, history.due(events), NO_SEQUENCE, 0, 1)] * malformed
    counts["corrupt"] += malformed
    return history, {**counts, "unexpected": len(strange)}


@given(planted())
@settings(max_examples=150, deadline=None)
def test_the_counts_are_exactly_the_faults_that_were_planted(case):
    history, counts = case
    outcome = history.judge()
    assert found(outcome) == only(history, **counts)
    owed = int(outcome.owed.sum())
    assert owed == outcome.delivered + outcome.lost == sum(outcome.count(fate) for fate in Fate)
    assert outcome.delivered == int((outcome.arrived_ns > 0).sum())


ANY = st.builds(
    record,
    st.sampled_from(list(Kind)),
    st.integers(START - STEP, START + 8 * STEP),
    st.one_of(st.integers(0, FIRST + 8), st.just(NO_SEQUENCE)),
    st.integers(0, 1),
    st.integers(0, 30),
)


@given(st.lists(ANY, max_size=30), st.lists(ANY, max_size=30), st.lists(ANY, max_size=6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_the_ledgers_say_owed_is_delivered_plus_lost(producer, consumer, link, drained):
    history = History(events=6, subscribers=2)
    history.producer[2:] = producer
    history.consumer += consumer
    history.link = link
    outcome = history.judge(drained)
    owed = int(outcome.owed.sum())
    assert owed == outcome.delivered + outcome.lost == sum(outcome.count(fate) for fate in Fate)
    assert outcome.delivered == int((outcome.arrived_ns > 0).sum())
    assert outcome.verdict in ("complete", "lossy", "inconclusive")
    assert drained or outcome.verdict == "inconclusive"


CELL = ("lost", "again", "dropped again", "corrupt", "corrupt at first", "dropped unseen")
"""What may become of one delivery of a perfect history."""


@st.composite
def faulty(draw):
    """A history of several subscribers with random faults, the cells of each, and how many phantoms came."""
    events, subscribers = draw(st.integers(4, 12)), draw(st.integers(2, 4))
    mask = st.lists(st.booleans(), min_size=events, max_size=events)
    wanted = np.array([draw(mask) for _ in range(subscribers)])
    history = History(events, wanted=wanted)
    after = history.due(events)
    faults = {what: set() for what in (*CELL, "swapped")}
    for who in range(subscribers):
        numbers = np.flatnonzero(wanted[who]).tolist()
        free = draw(st.lists(st.sampled_from(("fine", "swapped", *CELL)), min_size=events, max_size=events))
        while numbers:
            number = numbers.pop(0)
            what, cell = free[number], (who, number)
            if what == "swapped" and numbers:
                other = (who, numbers.pop(0))
                history.arrivals[cell], history.arrivals[other] = history.arrivals[other], history.arrivals[cell]
                faults[what].add(cell)
            elif what in CELL:
                plant(history, what, cell, after)
                faults[what].add(cell)
    strangers = [(subscribers, 0), (EVERYONE, events - 1), (0, events), (subscribers - 1, events + 1000)]
    strangers += [(int(who), int(number)) for who, number in np.argwhere(~wanted)]
    phantoms = draw(st.lists(st.sampled_from(strangers), max_size=5))
    for who, number in phantoms:
        history.consumed(draw(st.sampled_from((Kind.RECEIVED, Kind.REPEATED))), after, number, who)
    return history, faults, len(phantoms)


def plant(history, what, cell, after):
    """One fault in one cell of a perfect history; copies come `after` everything else."""
    who, number = cell
    if what == "again":
        history.consumed(Kind.RECEIVED, after, number, who)
    elif what == "dropped again":
        history.consumed(Kind.REPEATED, after, number, who)
    elif what == "corrupt at first":
        history.consumed(Kind.RECEIVED, history.arrivals[cell] - 1, number, who, WRONG)
    else:
        at = history.lose(number, who)
        if what == "corrupt":
            history.consumed(Kind.RECEIVED, at, number, who, WRONG)
        elif what == "dropped unseen":
            history.consumed(Kind.REPEATED, at, number, who)


def cells(matrix):
    return {(int(who), int(number)) for who, number in np.argwhere(matrix)}


@given(faulty())
@settings(max_examples=200, deadline=None)
def test_every_planted_fault_is_found_in_its_own_cell_and_nothing_else_is(case):
    history, faults, phantoms = case
    outcome = history.judge()
    lost = faults["lost"] | faults["corrupt"] | faults["dropped unseen"]
    again = faults["again"] | faults["dropped again"]
    assert cells(outcome.owed) == cells(history.offer.wanted)
    assert cells(outcome.owed & (outcome.fate == Fate.SILENT)) == lost
    assert cells(outcome.owed & (outcome.fate == Fate.ON_TIME)) == cells(history.offer.wanted) - lost
    assert cells(outcome.unexplained) == lost
    assert cells(outcome.copies) == again
    assert outcome.copies.max() <= 1
    assert {cell: int(outcome.arrived_ns[cell]) for cell in cells(outcome.arrived_ns)} == history.arrivals
    corrupt = len(faults["corrupt"] | faults["corrupt at first"])
    planted = {"silent": len(lost), "duplicated": len(again), "reordered": len(faults["swapped"]), "corrupt": corrupt}
    assert found(outcome) == only(history, **planted, unexpected=phantoms)
    assert int(outcome.owed.sum()) == outcome.delivered + outcome.lost


@given(faulty(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_trial_that_was_not_drained_or_left_out_an_event_is_inconclusive_whatever_else_happened(case, data):
    history, _, _ = case
    events = len(history.offer.due_ns)
    ends = data.draw(st.booleans())
    cut = data.draw(st.integers(1, events - 1))
    healed = data.draw(st.integers(cut + 1, events))
    if ends:
        history.outage(history.due(cut) - STEP // 2, history.due(healed) - STEP // 2)
        away = range(cut, healed)
    else:
        away = range(0)
    sent = dict(enumerate(history.producer))
    history.producer = [row for number, row in sent.items() if number not in away]
    fair = history.judge(producer_ends=ends)
    assert fair.verdict == ("lossy" if fair.lost else "complete")
    assert not fair.owed[:, list(away)].any()
    assert history.judge(drained=False, producer_ends=ends).verdict == "inconclusive"
    # What was last due before the end may have been on its way to the protocol; what an event followed was left out.
    outside = [number for number in range(events) if number not in away and not (ends and number == cut - 1)]
    if outside:
        gone = data.draw(st.sets(st.sampled_from(outside), min_size=1))
        history.producer = [row for number, row in sent.items() if number not in away and number not in gone]
        outcome = history.judge(producer_ends=ends)
        assert outcome.verdict == "inconclusive"
        assert int(outcome.owed.sum()) == outcome.delivered + outcome.lost
        assert not outcome.owed[:, list(gone)].any()


@st.composite
def broken_off(draw):
    """A history with one to three outages and random losses, and the outages by event numbers."""
    events, subscribers = draw(st.integers(6, 24)), draw(st.integers(1, 4))
    mask = st.lists(st.sampled_from((True, True, False)), min_size=events, max_size=events)
    history = History(events, wanted=np.array([draw(mask) for _ in range(subscribers)]))
    marks = sorted(draw(st.lists(st.integers(0, events), min_size=2, max_size=6, unique=True)))
    windows = list(zip(marks[::2], marks[1::2], strict=False))
    for cut, healed in windows:
        history.outage(history.due(cut) - STEP // 2, history.due(healed) - STEP // 2)
    if draw(st.booleans()):
        history.link.pop()
        windows[-1] = (windows[-1][0], events)
    for cell in draw(st.sets(st.sampled_from(sorted(history.arrivals) or [None]))) - {None}:
        history.lose(cell[1], cell[0])
    return history, windows


@given(broken_off(), st.integers(0, 4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_loss_is_explained_where_nothing_arrived_between_it_and_an_outage_and_only_there(case, spared, latest_only):
    history, windows = case
    subscribers = len(history.offer.wanted)
    struck = max(1, subscribers - spared)
    outcome = history.judge(struck=struck, latest_only=latest_only)

    def explained(who, number):
        got = {n for w, n in history.arrivals if w == who}
        superseded = latest_only and number < max(got, default=-1)
        near = any(
            not got & (set(range(number, cut)) | set(range(healed, number + 1))) or cut <= number < healed
            for cut, healed in windows
        )
        return superseded or (who < struck and near)

    lost = cells(history.offer.wanted) - history.arrivals.keys()
    assert cells(outcome.unexplained) == {cell for cell in lost if not explained(*cell)}
    assert outcome.lost == len(lost)
    assert len(outcome.windows) == len(windows)


def outages(*windows, events=20, subscribers=2):
    """A history with outages from before one event until before another."""
    history = History(events, subscribers)
    for cut, healed in windows:
        history.outage(history.due(cut) - STEP // 2, history.due(healed) - STEP // 2)
    return history


def unexplained(history, *losses, **terms):
    """The cells (subscriber, number) among these losses that no outage accounts for."""
    for who, number in losses:
        history.lose(number, who)
    return cells(history.judge(**terms).unexplained)


def test_a_loss_before_an_outage_is_unexplained_once_something_later_had_arrived():
    assert unexplained(outages((8, 12)), (0, 5), (0, 7), (1, 7), (1, 6)) == {(0, 5)}


def test_an_outage_reaches_until_something_that_was_due_after_it_arrives():
    losses = [(0, 12), (0, 13), (0, 15), (1, 13)]
    assert unexplained(outages((8, 12)), *losses) == {(0, 15), (1, 13)}


def test_what_lay_between_two_outages_is_unexplained_when_its_neighbours_arrived():
    losses = [(0, 5), (0, 8), (0, 12), (1, 6), (1, 7), (1, 8), (1, 9)]
    assert unexplained(outages((4, 6), (10, 13)), *losses) == {(0, 8)}


def test_what_was_due_in_an_outage_and_came_before_its_end_does_not_end_it():
    history = outages((8, 12))
    assert unexplained(history, (0, 8), (0, 10), (0, 11)) == set()
    assert history.judge().fate[0, 9] == Fate.ON_TIME


def test_an_outage_without_end_accounts_for_all_that_followed():
    history = outages((8, 12))
    history.link.pop()
    losses = [(0, 3), *((0, number) for number in range(8, 20))]
    assert unexplained(history, *losses) == {(0, 3)}
    assert history.judge().windows == [(history.due(8) - STEP // 2, None)]


def test_spared_subscribers_have_no_excuse_and_nothing_of_theirs_is_late():
    history = outages((8, 12))
    for who in (0, 1):
        history.arrivals[who, 11] = history.due(12) - STEP // 2
    assert unexplained(history, (0, 9), (1, 9), struck=1) == {(1, 9)}
    outcome = history.judge(struck=1)
    assert (outcome.fate[0, 11], outcome.fate[1, 11]) == (Fate.LATE, Fate.ON_TIME)


def test_what_a_later_event_superseded_is_lost_and_explained_but_the_newest_is_not():
    history = History()
    assert unexplained(history, (0, 5), (1, 19), latest_only=True) == {(1, 19)}
    assert found(history.judge(latest_only=True)) == only(history, silent=2)


def test_cut_and_heal_belong_to_what_follows_them():
    history = outages()
    cut, healed = history.arrivals[0, 8], history.due(12)
    history.outage(cut, healed)
    history.arrivals[0, 11] = healed
    history.arrivals[1, 11] = healed - 1
    outcome = history.judge()
    assert fates(outcome)[11:13] == [Fate.LATE, Fate.ON_TIME]
    assert set(fates(outcome, 1)) == {Fate.ON_TIME}
    assert unexplained(history, (0, 7), (0, 12)) == set()


def test_of_several_outages_each_makes_late_what_waited_for_its_end():
    history = outages((4, 6), (10, 13))
    history.arrivals[0, 4] = history.due(6) - STEP // 2
    history.arrivals[0, 5] = history.due(13) + 1
    history.arrivals[1, 12] = history.due(13) - STEP // 2 + 1
    outcome = history.judge()
    assert found(outcome) == only(history, late=3, reordered=1)
    assert outcome.recovered_ns == STEP // 2 + LATENCY
    assert len(outcome.windows) == 2


def test_each_side_notices_for_itself_after_the_first_cut_and_recovery_counts_from_the_last_heal():
    history = outages((4, 6), (10, 13))
    first, last = history.due(4) - STEP // 2, history.due(13) - STEP // 2
    history.consumed(Kind.DISCONNECTED, first - 1)
    history.consumed(Kind.CONNECTED, first - 1)
    history.consumed(Kind.DISCONNECTED, history.due(10))
    history.consumed(Kind.CONNECTED, last)
    history.produced(Kind.OVERFLOWED, first, subscriber=0)
    history.arrivals[1, 13] += 77
    outcome = history.judge()
    assert (outcome.noticed_producer_ns, outcome.noticed_consumer_ns) == (0, history.due(10) - first)
    assert outcome.noticed_ns == 0
    assert outcome.recovered_ns == history.due(13) + LATENCY + 77 - last


def test_one_side_may_notice_what_the_other_never_does():
    history = healing()
    history.consumed(Kind.GAP, history.due(12), number=8)
    outcome = history.judge()
    assert outcome.noticed_producer_ns is None
    assert outcome.noticed_consumer_ns == outcome.noticed_ns == history.due(12) - (history.due(8) - STEP // 2)


def test_overflows_are_counted_on_either_side():
    history = History()
    history.produced(Kind.OVERFLOWED, history.due(3), number=3, subscriber=1)
    history.consumed(Kind.OVERFLOWED, history.due(4))
    assert history.judge().overflowed == 2


def test_a_repeat_of_what_the_application_never_got_is_no_delivery():
    history = History()
    at = history.lose(5)
    history.consumed(Kind.REPEATED, at, number=5)
    outcome = history.judge()
    assert found(outcome) == only(history, silent=1)
    assert outcome.arrived_ns[0, 5] == 0
    history.consumed(Kind.RECEIVED, at + 9, number=5)
    outcome = history.judge()
    assert found(outcome) == only(history, duplicated=1)
    assert outcome.arrived_ns[0, 5] == at + 9


def test_a_connection_that_was_back_at_the_same_tick_of_the_clock_was_back():
    history = History()
    at = history.due(7) - 1
    for number in (6, 7, 12):
        history.lose(number)
    history.consumed(Kind.DISCONNECTED, at)
    history.consumed(Kind.CONNECTED, at)
    assert found(history.judge()) == only(history, gap_seen=1, silent=2)


def test_an_outage_that_begins_as_another_ends_is_one_of_its_own():
    history = History()
    times = [history.due(number) for number in (4, 6, 6, 9)]
    history.outage(*times[:2])
    history.outage(*times[2:])
    assert history.judge().windows == [(times[0], times[1]), (times[2], times[3])]


def test_an_end_without_a_begin_is_no_outage():
    history = History()
    history.link.append(record(Kind.HEALED, history.due(2)))
    history.outage(history.due(4), history.due(6))
    assert history.judge().windows == [(history.due(4), history.due(6))]


def test_a_subscriber_that_wanted_nothing_after_the_heal_does_not_put_off_the_recovery():
    wanted = np.ones((2, 20), bool)
    wanted[1, 12:] = False
    history = History(wanted=wanted)
    history.outage(history.due(8) - STEP // 2, history.due(12) - STEP // 2)
    assert history.judge().recovered_ns == STEP // 2 + LATENCY
    history.arrivals[1, 9] = history.due(14)
    assert history.judge().recovered_ns == history.due(14) - (history.due(12) - STEP // 2)


def test_where_nobody_wanted_anything_after_the_heal_nothing_shows_the_recovery():
    wanted = np.ones((2, 20), bool)
    wanted[:, 12:] = False
    history = History(wanted=wanted)
    history.outage(history.due(8) - STEP // 2, history.due(12) - STEP // 2)
    assert history.judge().recovered_ns is None


def test_a_spared_subscriber_has_nothing_to_recover_from():
    history = healing()
    history.arrivals[1, 12] += 4321
    assert history.judge(struck=1).recovered_ns == STEP // 2 + LATENCY
    for number in range(12, 20):
        history.lose(number, subscriber=1)
    assert history.judge(struck=1).recovered_ns == STEP // 2 + LATENCY


def test_recovery_is_when_the_subscriber_was_reached_again_however_long_after_the_heal():
    history = outages((8, 12))
    history.consumed(Kind.DISCONNECTED, history.due(8))
    history.consumed(Kind.CONNECTED, history.due(17) - 1)
    assert unexplained(history, *((0, number) for number in range(8, 17))) == set()
    outcome = history.judge()
    assert found(outcome) == only(history, gap_seen=9)
    assert outcome.recovered_ns == history.due(17) + LATENCY - (history.due(12) - STEP // 2)


def accepting(*refused, **shape):
    """A history whose producer has a durable log that accepted all events but these."""
    history = History(**shape)
    for number in range(len(history.offer.due_ns)):
        if number not in refused:
            history.produced(Kind.ACCEPTED, history.due(number) + 2 * LATENESS, number, value=256)
    return history


def test_a_durable_log_that_accepted_everything_owes_everything():
    history = accepting()
    history.lose(5)
    assert found(history.judge(owes=Kind.ACCEPTED)) == only(history, silent=1)


def test_what_a_durable_log_had_not_accepted_when_its_producer_ended_is_not_owed():
    history = accepting(7, 8, 9, 10, 11)
    history.outage(history.due(8) - STEP // 2, history.due(12) - STEP // 2)
    del history.producer[8:12]
    for who in (0, 1):
        for number in (7, 8, 9, 10, 11):
            history.lose(number, who)
    terms = {"owes": Kind.ACCEPTED, "producer_ends": True}
    assert found(history.judge(**terms)) == only(history, owed=30, delivered=30)


def test_what_one_subscriber_got_a_durable_log_held_and_owes_to_all_whatever_its_producer_lived_to_record():
    history = accepting(7)
    history.outage(history.due(8) - STEP // 2, history.due(12) - STEP // 2)
    history.arrivals[0, 7] = history.due(12)
    terms = {"owes": Kind.ACCEPTED, "producer_ends": True}
    assert found(history.judge(**terms)) == only(history, late=1, reordered=1)
    history.lose(7, subscriber=1)
    assert found(history.judge(**terms)) == only(history, late=1, reordered=1, silent=1)


@pytest.mark.parametrize("producer_ends", [False, True])
def test_what_a_living_producers_log_never_accepted_cannot_be_judged(producer_ends):
    history = accepting(15)
    history.outage(history.due(8) - STEP // 2, history.due(12) - STEP // 2)
    for who in (0, 1):
        history.lose(15, who)
    outcome = history.judge(owes=Kind.ACCEPTED, producer_ends=producer_ends)
    assert found(outcome) == only(history, owed=38, delivered=38, verdict="inconclusive")


def test_a_producers_end_excuses_only_what_was_due_while_it_was_away():
    history = outages((8, 12))
    sent = list(history.producer)
    history.producer = sent[:8] + sent[12:]
    for who in (0, 1):
        for number in range(8, 12):
            history.lose(number, who)
    assert found(history.judge(producer_ends=True)) == only(history, owed=32, delivered=32)
    assert history.judge().verdict == "inconclusive"
    for left_out in (3, 13):
        history.producer = [row for row in sent[:8] + sent[12:] if row is not sent[left_out]]
        assert history.judge(producer_ends=True).verdict == "inconclusive"


def test_a_producer_that_ends_twice_is_excused_twice():
    history = outages((4, 6), (10, 13))
    sent = list(history.producer)
    history.producer = sent[:4] + sent[6:10] + sent[13:]
    for who in (0, 1):
        for number in (4, 5, 10, 11, 12):
            history.lose(number, who)
    assert found(history.judge(producer_ends=True)) == only(history, owed=30, delivered=30)


def test_a_producer_that_ended_for_good_is_excused_for_all_that_followed():
    history = accepting(7, *range(8, 20))
    history.outage(history.due(8) - STEP // 2, 0)
    history.link.pop()
    del history.producer[8:20]
    for who in (0, 1):
        for number in range(7, 20):
            history.lose(number, who)
    assert found(history.judge(owes=Kind.ACCEPTED, producer_ends=True)) == only(history, owed=14, delivered=14)
    assert found(history.judge(producer_ends=True)) == only(history, owed=16, delivered=14, silent=2)


def test_a_second_begin_before_the_end_is_the_same_outage():
    history = outages((4, 9))
    history.link.append(record(Kind.CUT, history.due(6)))
    assert history.judge().windows == [(history.due(4) - STEP // 2, history.due(9) - STEP // 2)]


def test_what_was_due_as_the_consumer_was_back_is_a_gap_seen():
    history = History()
    history.lose(7)
    history.lose(8)
    history.consumed(Kind.DISCONNECTED, history.due(7))
    history.consumed(Kind.CONNECTED, history.due(8))
    assert found(history.judge()) == only(history, gap_seen=2)
