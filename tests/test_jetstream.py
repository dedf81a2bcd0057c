import asyncio
from contextlib import asynccontextmanager

import nats
import nats.errors
import nats.js.errors
import pytest

from labkit.errors import TrialError
from labkit.ledger import EVERYONE
from labkit.protocols.base import Backoff, Tasks
from labkit.protocols.jetstream import FAILURES, Stream, dial


class Publisher:
    """A stream as its publisher sees it, what it was told is kept, and every id it submitted."""

    def __init__(self, trial, client):
        self.kept, self.submitted = [], []
        self.tasks = Tasks()
        self.stream = Stream(trial, client, self.tasks, lambda item: self.kept.append(item.sequence))
        publish = self.stream.jetstream.publish_async

        async def noted(subject, payload, headers):
            self.submitted.append((subject, headers["Nats-Msg-Id"], payload))
            return await publish(subject, payload, headers=headers)

        self.stream.jetstream.publish_async = noted

    async def submit(self, items):
        for item in items:
            await self.stream.submit(item)


@asynccontextmanager
async def publisher_at(bench, trial, url):
    client = await dial(url, Backoff(trial, EVERYONE))
    publisher = Publisher(trial, client)
    try:
        await publisher.stream.open()
        yield publisher
        assert publisher.tasks.failure is None
    finally:
        await publisher.tasks.close()
        await client.close()


async def stored(trial, url):
    """What a plain client reads from the stream, message by message: id and bytes."""
    client = await nats.connect(url)
    jetstream, name = client.jetstream(), f"labkit-{trial.uid}"
    count = (await jetstream.stream_info(name)).state.messages
    messages = [await jetstream.get_msg(name, number) for number in range(1, count + 1)]
    await client.close()
    return sorted((message.headers["Nats-Msg-Id"], message.data) for message in messages)


def expected(items):
    return [(f"{item.sequence:08d}", item.raw) for item in items]


def test_what_is_submitted_while_the_broker_is_dead_is_acknowledged_by_the_one_that_takes_its_place(bench):
    async def scenario():
        trial, items = bench.trial("pubsub", "durable"), bench.events(30)
        async with bench.broker("always") as (broker, url), publisher_at(bench, trial, url) as publisher:
            stream = publisher.stream
            await publisher.submit(items[:10])
            await bench.until(lambda: len(publisher.kept) == 10)
            broker.kill()
            await publisher.submit(items[10:20])
            assert sorted(stream.unacknowledged) == list(range(10, 20))
            await publisher.submit(items[20:])
            await broker.open(int(url.rpartition(":")[2]))
            await bench.until(lambda: not stream.unacknowledged)
            assert sorted(publisher.kept) == list(range(30))
            assert await stored(trial, url) == expected(items)

    asyncio.run(scenario())


def test_what_was_under_way_when_the_broker_was_killed_is_stored_once(bench):
    async def scenario():
        trial, items = bench.trial("pubsub", "durable"), bench.events(500)
        async with bench.broker("always") as (broker, url), publisher_at(bench, trial, url) as publisher:
            await publisher.submit(items)
            await bench.until(lambda: publisher.kept)
            broker.kill()
            await broker.open(int(url.rpartition(":")[2]))
            await bench.until(lambda: not publisher.stream.unacknowledged)
            assert sorted(publisher.kept) == list(range(500))
            assert await stored(trial, url) == expected(items)

    asyncio.run(scenario())


class Muffler:
    """A forwarder to a broker that can hush it: what the broker then says is dropped."""

    def __init__(self, target):
        self._target = int(target.rpartition(":")[2])
        self._writers, self.dropped, self._hushed = [], b"", False

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    async def _relay(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, back]
        await asyncio.gather(self._copy(reader, back, False), self._copy(there, writer, True))

    async def _copy(self, reader, writer, from_broker):
        try:
            while data := await reader.read(65536):
                if from_broker and self._hushed:
                    self.dropped += data
                else:
                    writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    def hush(self):
        self._hushed = True

    def cut(self):
        self._hushed = False
        for writer in self._writers:
            writer.transport.abort()


@pytest.mark.parametrize("cut", [True, False], ids=["with the connection", "alone"])
def test_an_acknowledgement_that_got_lost_brings_a_repeat_of_the_id_which_the_stream_drops(bench, cut):
    async def scenario():
        trial, items = bench.trial("pubsub"), bench.events(3)
        async with (
            bench.broker() as (_, url),
            Muffler(url) as muffler,
            publisher_at(bench, trial, muffler.url) as publisher,
        ):
            muffler.hush()
            await publisher.submit(items)
            await bench.until(lambda: muffler.dropped.count(b'"seq"') == 3)
            assert await stored(trial, url) == expected(items)
            assert publisher.kept == []
            if cut:
                muffler.cut()
            else:
                muffler._hushed = False
            await bench.until(lambda: not publisher.stream.unacknowledged)
            assert sorted(publisher.kept) == [0, 1, 2]
            assert await stored(trial, url) == expected(items)
            submitted = [(event_id, raw) for _, event_id, raw in publisher.submitted]
            assert sorted(set(submitted)) == expected(items)
            assert all(submitted.count(event) >= 2 for event in expected(items))

    asyncio.run(scenario())


def test_an_event_that_is_submitted_twice_is_stored_and_told_once(bench):
    async def scenario():
        trial, items = bench.trial("pubsub"), bench.events(4)
        async with bench.broker() as (_, url), publisher_at(bench, trial, url) as publisher:
            await publisher.submit([*items, *items])
            await bench.until(lambda: not publisher.stream.unacknowledged)
            assert sorted(publisher.kept) == [0, 1, 2, 3]
            assert await stored(trial, url) == expected(items)

    asyncio.run(scenario())


def test_a_stream_is_read_by_sequence_number_without_what_is_no_event(bench):
    async def scenario():
        trial, items = bench.trial("pubsub"), bench.events(5, topics=2)
        async with bench.broker() as (_, url), publisher_at(bench, trial, url) as publisher:
            await publisher.submit([items[number] for number in (3, 0, 4)])
            client = await nats.connect(url)
            await client.jetstream().publish(f"labkit.{trial.uid}.t0", b"a stranger's")
            await client.close()
            await publisher.submit([items[number] for number in (2, 1)])
            await bench.until(lambda: not publisher.stream.unacknowledged)
            found = await publisher.stream.read()
            assert [(i.sequence, i.topic, i.raw) for i in found] == [(i.sequence, i.topic, i.raw) for i in items]

    asyncio.run(scenario())


def test_an_empty_stream_reads_as_nothing(bench):
    async def scenario():
        trial = bench.trial("pubsub")
        async with bench.broker() as (_, url), publisher_at(bench, trial, url) as publisher:
            assert await publisher.stream.read() == []

    asyncio.run(scenario())


def test_a_stream_that_is_there_already_is_opened_as_it_was_left(bench):
    async def scenario():
        trial = bench.trial("pubsub")
        async with bench.broker() as (_, url):
            async with publisher_at(bench, trial, url) as first:
                await first.submit(bench.events(3))
                await bench.until(lambda: len(first.kept) == 3)
            async with publisher_at(bench, trial, url) as second:
                assert [item.sequence for item in await second.stream.read()] == [0, 1, 2]
                await second.stream.delete()
                await second.stream.delete()

    asyncio.run(scenario())


def test_a_broker_without_jetstream_is_told_in_one_sentence(bench, monkeypatch):
    plain = 'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:-1"\nports_file_dir: "{folder}"\n'
    monkeypatch.setattr("labkit.broker.CONFIG", plain)

    async def scenario():
        async with bench.broker() as (_, url):
            with pytest.raises(
                TrialError, match=r"^The broker has no JetStream for this guarantee \(.+\); switch it on\.$"
            ):
                async with publisher_at(bench, bench.trial("pubsub"), url):
                    pass

    asyncio.run(scenario())


def test_a_broker_that_is_not_there_is_told_in_one_sentence_without_its_credentials(bench, closed_port):
    async def scenario():
        trial = bench.trial("pubsub")
        sentence = (
            rf"^The broker at 127\.0\.0\.1:{closed_port} does not answer \(.+\); start it, or unset LABKIT_NATS\.$"
        )
        with pytest.raises(TrialError, match=sentence):
            await dial(f"nats://user:hush@127.0.0.1:{closed_port}", Backoff(trial, EVERYONE))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        nats.errors.TimeoutError(),
        nats.errors.ConnectionClosedError(),
        nats.errors.NoRespondersError(),
        nats.errors.OutboundBufferLimitError(),
        nats.js.errors.NoStreamResponseError(),
        nats.js.errors.ServiceUnavailableError(),
        nats.js.errors.TooManyStalledMsgsError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_submission_that_fails_is_tried_again(bench, error):
    async def scenario():
        trial, items = bench.trial("pubsub"), bench.events(1)
        async with bench.broker() as (_, url), publisher_at(bench, trial, url) as publisher:
            publish, failures = publisher.stream.jetstream.publish_async, [error, error]

            async def failing(subject, payload, headers):
                if failures:
                    raise failures.pop()
                return await publish(subject, payload, headers=headers)

            assert isinstance(error, FAILURES)
            publisher.stream.jetstream.publish_async = failing
            await publisher.submit(items)
            await bench.until(lambda: publisher.kept)
            assert (publisher.kept, failures) == ([0], [])
            assert await stored(trial, url) == expected(items)

    asyncio.run(scenario())
