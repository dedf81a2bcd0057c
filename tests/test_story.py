import pytest
from test_charts import MS, START, S
from test_sequence import HEALED, at, tell, write

from labkit.audit import Fate
from labkit.errors import UsageError
from labkit.ledger import Kind
from labkit.story import ids, story


def test_a_story_has_each_owed_event_with_its_times_and_fate(tmp_path):
    run = write(tmp_path, "sse", lost=[4], late=[5])
    told = tell(run)
    assert [message.fate for message in told.messages] == [Fate.ON_TIME] * 4 + [Fate.SILENT, Fate.LATE] + [
        Fate.ON_TIME
    ] * 4
    assert told.messages[0][:4] == (10, 0.001, 0.001, 0.002)
    assert told.messages[4].arrived is None
    assert told.messages[5].arrived == pytest.approx((HEALED - START + MS) / S)
    assert told.windows == [(0.35, 0.65)]
    assert not told.failed
    assert not told.again


def test_what_is_before_the_load_or_of_another_subscriber_is_no_part_of_it(tmp_path):
    consumer = [(START - MS, 0, 0, 0, Kind.CONNECTED), (at(3), 0, 0, 1, Kind.DISCONNECTED)]
    link = [(START - 1, 500, 0, 0, Kind.UP), (START, 70, 0, 0, Kind.UP)]
    run = write(tmp_path, "sse", consumer=consumer, link=link)
    assert tell(run).signs == {"producer": [], "consumer": []}
    assert tell(run).chunks == {Kind.UP: [(0.0, 70)], Kind.DOWN: []}


def test_the_broker_has_an_event_from_its_acceptance_on_but_never_after_its_arrival(tmp_path):
    producer = [
        (at(0) + MS // 2, 256, 10, 2**16 - 1, Kind.ACCEPTED),
        (at(1) + 9 * MS, 256, 11, 2**16 - 1, Kind.ACCEPTED),
    ]
    producer += [(at(n), 256, 10 + n, 2**16 - 1, Kind.ACCEPTED) for n in range(2, 10)]
    told = tell(write(tmp_path, "pubsub", producer=producer))
    assert told.messages[0].stored == pytest.approx(0.0015)
    assert told.messages[1].stored == told.messages[1].arrived
    assert told.messages[2].stored == told.messages[2].sent


@pytest.mark.parametrize("subscriber", [1, -1, True, None, "0", 0.5])
def test_there_has_to_be_such_a_subscriber(tmp_path, subscriber):
    run = write(tmp_path, "sse")
    with pytest.raises(UsageError, match=r"no subscriber .*numbered from 0 to 0\.$"):
        story(run.recordings[0], subscriber)


def test_ids_are_three_digits_with_neighbours_together():
    assert ids([1015, 1016, 1017, 1021]) == "15–17, 21"
    assert ids([7, 7, 8]) == "7–8"
    assert ids([]) == ""


def test_a_spared_subscriber_has_no_outage(tmp_path):
    run = write(tmp_path, "sse", subscribers=2, share=0.5)
    assert story(run.recordings[0], 0).windows
    assert not story(run.recordings[0], 1).windows
