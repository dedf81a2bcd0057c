import asyncio
import socket
import struct
from contextlib import asynccontextmanager, closing

import nats
import psutil
import pytest

from labkit.broker import Broker
from labkit.errors import TrialError
from labkit.ledger import NO_SEQUENCE, Kind, Ledger, read
from labkit.protocols import find


@asynccontextmanager
async def broker():
    """The lab's own broker and a plain nats-py client of it."""
    server = Broker()
    url = await server.open()
    try:
        client = await nats.connect(url)
        yield url, client
        await client.close()
    finally:
        server.close()


async def settled(client):
    """The server has had all that the client said: nats-py sends the first PING ahead of what it still has to send."""
    await client.flush()
    await client.flush()


async def publish(producer, items):
    for item in items:
        await producer.publish(item)


def test_a_plain_subscriber_gets_each_event_on_its_own_subject(bench):
    async def scenario():
        trial = bench.trial("pubsub", "at-most-once")
        async with broker() as (url, client), bench.producer(trial) as (producer, _):
            everything = await client.subscribe(f"labkit.{trial.uid}.>")
            one_topic = await client.subscribe(f"labkit.{trial.uid}.t1")
            await settled(client)
            await producer.connect(url)
            items = bench.events(4, topics=2)
            await publish(producer, items)
            got = [await everything.next_msg(5) for _ in items]
            assert [message.data for message in got] == [item.raw for item in items]
            assert [message.subject for message in got] == [f"labkit.{trial.uid}.{item.topic}" for item in items]
            assert [(await one_topic.next_msg(5)).data for _ in range(2)] == [items[1].raw, items[3].raw]

    asyncio.run(scenario())


def test_the_stream_holds_every_event_once_under_its_id(bench):
    async def scenario():
        trial = bench.trial("pubsub")
        async with broker() as (url, client), bench.producer(trial) as (producer, _):
            await producer.connect(url)
            items = bench.events(5, topics=2)
            await publish(producer, items)
            await publish(producer, items[:2])
            stream = f"labkit-{trial.uid}"
            for _ in iter(lambda: producer._stream.unacknowledged, {}):
                await asyncio.sleep(0.005)
            jetstream = client.jetstream()
            assert (await jetstream.stream_info(stream)).state.messages == 5
            stored = [await jetstream.get_msg(stream, number) for number in range(1, 6)]
            assert [message.data for message in stored] == [item.raw for item in items]
            assert [message.headers["Nats-Msg-Id"] for message in stored] == [f"{n:08d}" for n in range(5)]

    asyncio.run(scenario())


def test_a_plain_jetstream_consumer_that_comes_late_gets_everything(bench):
    async def scenario():
        trial = bench.trial("pubsub")
        async with broker() as (url, client), bench.producer(trial) as (producer, _):
            await producer.connect(url)
            items = bench.events(3)
            await publish(producer, items)
            late = await client.jetstream().subscribe(f"labkit.{trial.uid}.>", ordered_consumer=True)
            assert [(await late.next_msg(5)).data for _ in items] == [item.raw for item in items]

    asyncio.run(scenario())


def test_the_stream_is_gone_when_the_producer_is(bench):
    async def scenario():
        trial = bench.trial("pubsub")
        async with broker() as (url, client):
            async with bench.producer(trial) as (producer, _):
                await producer.connect(url)
                assert [info.config.name for info in await client.jetstream().streams_info()] == [f"labkit-{trial.uid}"]
            assert await client.jetstream().streams_info() == []

    asyncio.run(scenario())


@pytest.mark.parametrize("guarantee", ["at-most-once", "at-least-once"])
def test_our_consumer_gets_what_a_plain_publisher_says_on_its_topic(bench, guarantee):
    async def scenario():
        trial = bench.trial("pubsub", guarantee, subscribers=2, topics=2)
        async with broker() as (url, client), bench.consumer(trial) as (consumer, _):
            if guarantee == "at-least-once":
                await client.jetstream().add_stream(name=f"labkit-{trial.uid}", subjects=[f"labkit.{trial.uid}.>"])
            await consumer.connect(url, None)
            for item in bench.events(6, topics=2):
                await client.publish(f"labkit.{trial.uid}.{item.topic}", item.raw)
            await bench.until(lambda: len(bench.records("consumer", Kind.RECEIVED)) == 6)
            assert [bench.received(0), bench.received(1)] == [[0, 2, 4], [1, 3, 5]]

    asyncio.run(scenario())


class PlainServer:
    """A hand-written NATS server that answers PING, and notes every command in its order."""

    INFO = b'INFO {"server_id":"x","version":"2.11.0","proto":1,"max_payload":1048576,"headers":true}\r\n'

    async def __aenter__(self):
        self.commands = []
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader, writer):
        writer.write(self.INFO)
        while line := await reader.readline():
            self.commands.append(line.split()[0].decode())
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()


def test_a_subscriber_is_connected_only_when_the_broker_has_confirmed_its_subscription(bench):
    """The proof is a PONG to a PING that the server read after the SUB."""

    async def scenario():
        async with PlainServer() as server, bench.consumer(bench.trial("pubsub", "at-most-once")) as (consumer, _):
            await consumer.connect(server.url, None)
            heard = list(server.commands)
            assert "SUB" in heard
            assert "PING" in heard[heard.index("SUB") :]

    asyncio.run(scenario())


def test_what_our_consumer_took_is_acknowledged(bench):
    async def scenario():
        trial = bench.trial("pubsub", subscribers=2)
        async with broker() as (url, client), bench.producer(trial) as (producer, _):
            await producer.connect(url)
            async with bench.consumer(trial) as (consumer, _):
                await consumer.connect(url, None)
                await publish(producer, bench.events(4))
                await bench.until(lambda: len(bench.records("consumer", Kind.RECEIVED)) == 8)
                for _ in range(1000):
                    if await producer.pending() == 0:
                        break
                infos = await client.jetstream().consumers_info(f"labkit-{trial.uid}")
                assert sorted(info.name for info in infos) == ["s0000", "s0001"]
                assert [(info.num_pending, info.num_ack_pending, info.ack_floor.stream_seq) for info in infos] == [
                    (0, 0, 4),
                    (0, 0, 4),
                ]

    asyncio.run(scenario())


@pytest.mark.parametrize(("guarantee", "received"), [("at-least-once", [0, 1, 2]), ("at-most-once", [0, 2])])
def test_what_is_published_while_a_subscriber_is_cut_off_is_kept_only_where_it_recovers(bench, guarantee, received):
    async def scenario():
        trial = bench.trial("pubsub", guarantee)
        async with (
            broker() as (url, _),
            bench.producer(trial) as (producer, _),
            bench.consumer(trial) as (consumer, _),
        ):
            await producer.connect(url)
            gate = await Gate(url).open()
            await consumer.connect(gate.url, None)
            first, second, third = bench.events(3)
            await producer.publish(first)
            await bench.until(lambda: bench.received() == [0])
            gate.shut()
            await bench.until(lambda: consumer.connected == 0)
            await producer.publish(second)
            await settled(producer._client)
            gate.unlock()
            await bench.until(lambda: consumer.connected == 1)
            if guarantee == "at-least-once":
                await bench.until(lambda: 1 in bench.received())
            else:
                # The broker knows of the subscription again once it answers on that connection.
                await settled(consumer._clients[0])
            await producer.publish(third)
            await bench.until(lambda: 2 in bench.received())
            assert bench.received() == received
            assert len(bench.records("consumer", Kind.DISCONNECTED)) == 1
            await gate.close()

    asyncio.run(scenario())


def connections(bench, side):
    """The record of a side's connection to the broker, in its order."""
    found = read(bench.folder / f"{side}.ledger")["kind"]
    return [Kind(kind).name for kind in found if kind in (Kind.CONNECTED, Kind.DISCONNECTED)]


@pytest.mark.parametrize(("guarantee", "received"), [("durable", [0, 1, 2]), ("at-most-once", [0, 2])])
def test_both_sides_record_the_brokers_end_and_return_and_a_durable_one_loses_nothing(bench, guarantee, received):
    async def scenario():
        trial = bench.trial("pubsub", guarantee)
        async with (
            bench.broker("always") as (server, url),
            bench.producer(trial) as (producer, _),
            bench.consumer(trial) as (consumer, _),
        ):
            await producer.connect(url)
            await consumer.connect(url, None)
            first, second, third = bench.events(3)
            await producer.publish(first)
            await bench.until(lambda: bench.received() == [0])
            assert (connections(bench, "producer"), connections(bench, "consumer")) == ([], ["CONNECTED"])
            if guarantee == "durable":
                await bench.pending(producer, 0)
            server.kill()
            await bench.until(lambda: consumer.connected == 0 and connections(bench, "producer") == ["DISCONNECTED"])
            if guarantee == "durable":
                await producer.publish(second)
                assert list(producer._stream.unacknowledged) == [1]
            await server.open(int(url.rpartition(":")[2]))
            await bench.until(lambda: consumer.connected == 1 and len(connections(bench, "producer")) == 2)
            if guarantee == "durable":
                await bench.until(lambda: 1 in bench.received())
            else:
                await settled(consumer._clients[0])
            await producer.publish(third)
            await bench.until(lambda: 2 in bench.received())
            # Events survive the broker's end; its note that one was acknowledged may not, and then it comes again.
            assert sorted(set(bench.received())) == received
            assert guarantee == "durable" or bench.received() == received
            assert connections(bench, "producer") == ["DISCONNECTED", "CONNECTED"]
            assert connections(bench, "consumer") == ["CONNECTED", "DISCONNECTED", "CONNECTED"]

    asyncio.run(scenario())


def test_a_producer_whose_broker_was_killed_can_be_closed(bench):
    async def scenario():
        async with bench.broker() as (server, url), bench.producer(bench.trial("pubsub")) as (producer, _):
            await producer.connect(url)
            server.kill()
            await bench.until(lambda: bench.records("producer", Kind.DISCONNECTED))

    asyncio.run(scenario())


def kill(consumer):
    """What is left of a consumer's connections after a SIGKILL: nothing, and nobody who dials again."""
    for client in consumer._clients.values():
        client.options["allow_reconnect"] = False
        client._transport._io_writer.transport.abort()


@pytest.mark.parametrize("guarantee", ["at-least-once", "durable"])
def test_a_durable_subscription_is_taken_over_from_a_killed_consumer_and_nothing_acknowledged_comes_twice(
    bench, guarantee
):
    async def scenario():
        trial = bench.trial("pubsub", guarantee, subscribers=2)
        async with bench.broker() as (_, url), bench.producer(trial) as (producer, _):
            await producer.connect(url)
            items = bench.events(9)
            async with bench.consumer(trial) as (consumer, _):
                await consumer.connect(url, None)
                await publish(producer, items[:3])
                await bench.until(lambda: len(bench.records("consumer", Kind.RECEIVED)) == 6)
                await bench.pending(producer, 0)
                kill(consumer)
                await publish(producer, items[3:6])
                async with bench.consumer(trial, name="consumer-2") as (other, _):
                    other.resume({0: [0, 1, 2], 1: [0, 1, 2]})
                    assert bench.records("consumer-2", Kind.DISCONNECTED) == [(0, NO_SEQUENCE, 0), (1, NO_SEQUENCE, 0)]
                    await other.connect(url, None)
                    assert other.connected == 2
                    await publish(producer, items[6:])
                    # The server acknowledges an event shortly before it counts it as pending.
                    await bench.until(lambda: len(bench.records("consumer-2", Kind.RECEIVED)) >= 12)
                    await bench.pending(producer, 0)
                    for subscriber in range(2):
                        assert bench.received(subscriber) == [0, 1, 2]
                        # What was sent to the killed one comes after its AckWait, and after what followed it.
                        assert sorted(bench.received(subscriber, "consumer-2")) == [3, 4, 5, 6, 7, 8]

    asyncio.run(scenario())


def test_a_consumer_notices_a_frozen_broker_within_heartbeats_and_recovers_when_it_goes_on(bench):
    async def scenario():
        trial = bench.trial("pubsub", "durable")
        async with (
            bench.broker() as (server, url),
            bench.producer(trial) as (producer, _),
            bench.consumer(trial) as (consumer, _),
        ):
            process = psutil.Process(server.process.pid)
            await producer.connect(url)
            await consumer.connect(url, None)
            first, second, third = bench.events(3)
            await producer.publish(first)
            await bench.until(lambda: bench.received() == [0])
            await bench.pending(producer, 0)
            process.suspend()
            try:
                await bench.until(lambda: connections(bench, "consumer") == ["CONNECTED", "DISCONNECTED"])
                assert consumer.connected == 0
                await producer.publish(second)
            finally:
                process.resume()
            await bench.until(lambda: consumer.connected == 1)
            await producer.publish(third)
            await bench.until(lambda: set(bench.received()) == {0, 1, 2})
            await bench.pending(producer, 0)
            assert connections(bench, "consumer") == ["CONNECTED", "DISCONNECTED", "CONNECTED"]

    asyncio.run(scenario())


def test_a_quiet_broker_that_is_alive_is_not_left(bench):
    async def scenario():
        trial = bench.trial("pubsub")
        async with (
            bench.broker() as (_, url),
            bench.producer(trial) as (producer, _),
            bench.consumer(trial) as (consumer, _),
        ):
            await producer.connect(url)
            await consumer.connect(url, None)
            (client,) = consumer._clients.values()
            request, asked = client.request, []

            async def noted(*words, **options):
                try:
                    return await request(*words, **options)
                finally:
                    asked.append(len(asked))

            client.request = noted
            first, second = bench.events(2)
            await producer.publish(first)
            await bench.until(lambda: len(asked) >= 3)
            await producer.publish(second)
            await bench.until(lambda: bench.received() == [0, 1])
            assert connections(bench, "consumer") == ["CONNECTED"]

    asyncio.run(scenario())


class Gate:
    """A plain forwarder that can be shut: what is connected is cut, what dials is turned away."""

    def __init__(self, target):
        self._target = int(target.rpartition(":")[2])
        self._writers, self._shut = [], False

    async def open(self):
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _relay(self, reader, writer):
        if self._shut:
            # With a RST: nats-py never closes its own side of a connection that ends with a FIN before its greeting.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, back]
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    def shut(self):
        self._shut = True
        for writer in self._writers:
            writer.transport.abort()

    def unlock(self):
        self._shut = False

    async def close(self):
        self.shut()
        self._server.close()
        await self._server.wait_closed()


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_broker_that_is_not_there_is_named_within_the_limit_and_without_its_credentials(bench, side, closed_port):
    async def scenario():
        trial, url = bench.trial("pubsub"), f"nats://user:hush@127.0.0.1:{closed_port}"
        with closing(Ledger(bench.folder / "ledger")) as ledger:
            role = getattr(find("pubsub"), side)()(trial, ledger)
            async with asyncio.timeout(5):
                with pytest.raises(TrialError, match=rf"127\.0\.0\.1:{closed_port} does not answer") as caught:
                    await (role.connect(url) if side == "producer" else role.connect(url, None))
            assert "hush" not in str(caught.value)

    asyncio.run(scenario())


WITHOUT_JETSTREAM = 'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:-1"\nports_file_dir: "{folder}"\n'


def test_a_broker_without_jetstream_is_named_where_it_is_needed(bench, monkeypatch):
    monkeypatch.setattr("labkit.broker.CONFIG", WITHOUT_JETSTREAM)

    async def scenario():
        async with broker() as (url, _):
            with closing(Ledger(bench.folder / "ledger")) as ledger:
                producer = find("pubsub").producer()(bench.trial("pubsub"), ledger)
                with pytest.raises(TrialError, match="no JetStream"):
                    await producer.connect(url)
                await producer._client.close()

    asyncio.run(scenario())


def test_a_producer_that_found_no_jetstream_can_be_closed(bench, monkeypatch):
    monkeypatch.setattr("labkit.broker.CONFIG", WITHOUT_JETSTREAM)

    async def scenario():
        async with broker() as (url, _), bench.producer(bench.trial("pubsub")) as (producer, _):
            with pytest.raises(TrialError):
                await producer.connect(url)

    asyncio.run(scenario())


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_side_that_found_no_broker_can_be_closed(bench, monkeypatch, side, closed_port):
    monkeypatch.setattr("labkit.protocols.jetstream.CONNECT_LIMIT", 0.3)

    async def scenario():
        async with getattr(bench, side)(bench.trial("pubsub")) as (role, _):
            url = f"nats://127.0.0.1:{closed_port}"
            with pytest.raises(TrialError):
                await (role.connect(url) if side == "producer" else role.connect(url, None))

    asyncio.run(scenario())
