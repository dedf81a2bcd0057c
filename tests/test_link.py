import asyncio
import hashlib
import io
import random
import socket
import time
from collections import defaultdict
from contextlib import asynccontextmanager, closing

import psutil
import pytest

from labkit.ledger import Kind, Ledger, read
from labkit.link import UNDER_WAY, Link
from labkit.outage import OUTAGES, Conditions, Strikes

LINK_KINDS = [kind for kind, row in OUTAGES.items() if row.strikes is Strikes.LINK]
KERNEL_COUNTS = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="this kernel has no TCP_INFO to judge by")


class Upstream:
    """A plain server behind the link that keeps every connection it is given."""

    def __init__(self):
        self.connections = asyncio.Queue()
        self.writers = []

    async def _serve(self, reader, writer):
        self.writers.append(writer)
        await self.connections.put((reader, writer))

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        for writer in self.writers:
            writer.transport.abort()
        self.server.close()
        await self.server.wait_closed()


@asynccontextmanager
async def linked(bench, consumer_dials=True, spared=False, tap=None, **conditions):
    """A link with a route to a plain server, and a way to connect through it: (link, upstream, dial)."""
    with closing(Ledger(bench.folder / "link.ledger")) as ledger:
        link, writers = Link(ledger, Conditions(**conditions), 7, tap), []
        async with Upstream() as upstream, asyncio.timeout(30):
            url = await link.route(f"http://127.0.0.1:{upstream.port}/path?q=1", consumer_dials, spared)
            port = int(url.removeprefix("http://127.0.0.1:").removesuffix("/path?q=1"))

            async def dial(accepted=True):
                near = await asyncio.open_connection("127.0.0.1", port)
                writers.append(near[1])
                return near, await upstream.connections.get() if accepted else None

            try:
                yield link, upstream, dial
            finally:
                link.close()
                for writer in writers:
                    writer.transport.abort()


def sides(link):
    """Every connection that the link has open, on either side."""
    return [side for route in link._routes for side in route.sides]


async def turns(count=200):
    """Lets everything in this process, the link among it, have its turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def counted(bench, kind):
    return sum(value for _, _, value in bench.records("link", kind))


def noise(seed, size):
    return random.Random(seed).randbytes(size)


async def send(writer, data, end=True):
    writer.write(data)
    await writer.drain()
    if end:
        writer.write_eof()


@KERNEL_COUNTS
@pytest.mark.parametrize("consumer_dials", [True, False])
def test_megabytes_pass_unchanged_both_ways_at_once_and_are_counted_as_the_kernel_counts_them(bench, consumer_dials):
    async def scenario():
        async with linked(bench, consumer_dials) as (_, _, dial):
            near, far = await dial()
            there, back = noise(1, 5_000_001), noise(2, 3_000_003)
            _, _, arrived, returned = await asyncio.gather(
                send(near[1], there), send(far[1], back), far[0].read(), near[0].read()
            )
            assert hashlib.sha256(arrived).digest() == hashlib.sha256(there).digest()
            assert hashlib.sha256(returned).digest() == hashlib.sha256(back).digest()
            up, down = (there, back) if consumer_dials else (back, there)
            assert counted(bench, Kind.UP) == len(up)
            assert counted(bench, Kind.DOWN) == len(down)
            await bench.until(lambda: bench.records("link", Kind.KERNEL_UP))
            await bench.until(lambda: bench.records("link", Kind.KERNEL_DOWN))
            assert counted(bench, Kind.KERNEL_UP) == len(up)
            assert counted(bench, Kind.KERNEL_DOWN) == len(down)

    asyncio.run(scenario())


@KERNEL_COUNTS
def test_the_kernels_counts_of_open_connections_are_recorded_on_demand_and_once(bench):
    async def scenario():
        async with linked(bench) as (link, _, dial):
            near, far = await dial()
            await send(near[1], b"x" * 1000, end=False)
            assert await far[0].readexactly(1000) == b"x" * 1000
            await send(far[1], b"y" * 70_000, end=False)
            assert await near[0].readexactly(70_000) == b"y" * 70_000
            link.count()
            link.count()
            assert bench.records("link", Kind.KERNEL_UP) == [(65535, 2**32 - 1, 1000)]
            assert bench.records("link", Kind.KERNEL_DOWN) == [(65535, 2**32 - 1, 70_000)]

    asyncio.run(scenario())


def test_one_direction_can_end_while_the_other_goes_on(bench):
    async def scenario():
        async with linked(bench) as (_, _, dial):
            near, far = await dial()
            await send(near[1], b"question")
            assert await far[0].read() == b"question"
            for part in (b"first", b"second"):
                await send(far[1], part, end=False)
                assert await near[0].readexactly(len(part)) == part
            far[1].write_eof()
            assert await near[0].read() == b""

    asyncio.run(scenario())


def test_an_end_that_comes_before_the_link_has_dialled_on_is_passed_on(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, _):
            port = link._routes[0].port
            with socket.create_connection(("127.0.0.1", port)) as near:
                # The link is in this very process: it finds connection and FIN together.
                near.shutdown(socket.SHUT_WR)
                reader, _ = await upstream.connections.get()
                async with asyncio.timeout(3):
                    assert await reader.read() == b""

    asyncio.run(scenario())


def test_what_is_sent_before_the_link_has_dialled_on_is_passed_on(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, _):
            port = link._routes[0].port
            with socket.create_connection(("127.0.0.1", port)) as near:
                near.sendall(b"early")
                near.shutdown(socket.SHUT_WR)
                reader, _ = await upstream.connections.get()
                assert await reader.read() == b"early"

    asyncio.run(scenario())


def test_connections_that_both_sides_have_ended_are_let_go(bench):
    async def scenario():
        process = psutil.Process()
        async with linked(bench) as (_, _, dial):
            before = process.num_fds()
            for _ in range(20):
                near, far = await dial()
                for side in (near[1], far[1]):
                    side.write_eof()
                assert await near[0].read() == b""
                assert await far[0].read() == b""
                near[1].close()
                far[1].close()
            await bench.until(lambda: process.num_fds() <= before, limit=3)

    asyncio.run(scenario())


@pytest.mark.parametrize("who", [0, 1])
def test_a_side_that_resets_is_passed_on_as_a_reset(bench, who):
    async def scenario():
        async with linked(bench) as (_, _, dial):
            sides = await dial()
            sides[who][1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sides[who][1].transport.abort()
            with pytest.raises(ConnectionResetError):
                await sides[1 - who][0].read()

    asyncio.run(scenario())


def test_a_target_that_is_not_there_shows_as_a_reset(bench, closed_port):
    async def scenario():
        with closing(Ledger(bench.folder / "link.ledger")) as ledger:
            link = Link(ledger)
            url = await link.route(f"ws://127.0.0.1:{closed_port}", True)
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            link.close()

    asyncio.run(scenario())


def test_the_route_keeps_credentials_and_path(bench):
    async def scenario():
        with closing(Ledger(bench.folder / "link.ledger")) as ledger:
            link = Link(ledger)
            url = await link.route("nats://user:word@127.0.0.1:4222", True)
            port = link._routes[0].port
            assert url == f"nats://user:word@127.0.0.1:{port}"
            link.close()

    asyncio.run(scenario())


def test_a_reset_is_seen_by_both_sides_and_by_whoever_dials_until_it_heals(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, dial):
            near, far = await dial()
            await link.cut("reset")
            for reader, _ in (near, far):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            (reader, _), _ = await dial(accepted=False)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert len(upstream.writers) == 1
            await link.heal()
            near, far = await dial()
            await send(near[1], b"again")
            assert await far[0].read() == b"again"

    asyncio.run(scenario())


def test_a_close_is_an_orderly_end_for_both_sides_and_for_whoever_dials_until_it_heals(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, dial):
            near, far = await dial()
            await link.cut("close")
            assert await near[0].read() == b""
            assert await far[0].read() == b""
            (reader, _), _ = await dial(accepted=False)
            assert await reader.read() == b""
            assert len(upstream.writers) == 1
            await link.heal()
            near, far = await dial()
            await send(near[1], b"again")
            assert await far[0].read() == b"again"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_connection_that_is_being_dialled_when_the_link_is_cut_does_not_survive(bench, kind):
    async def scenario():
        async with linked(bench) as (link, _, _):
            port = link._routes[0].port
            with socket.create_connection(("127.0.0.1", port)) as near:
                near.setblocking(False)
                loop = asyncio.get_running_loop()
                await bench.until(lambda: sides(link))
                await link.cut(kind)
                if kind == "reset":
                    with pytest.raises(ConnectionResetError):
                        await loop.sock_recv(near, 1)
                else:
                    assert await loop.sock_recv(near, 1) == b""
            await bench.until(lambda: not sides(link))

    asyncio.run(scenario())


def test_silence_carries_nothing_either_way_and_loses_nothing(bench):
    async def scenario():
        async with linked(bench) as (link, _, dial):
            near, far = await dial()
            await link.cut("silent")
            before = [counted(bench, kind) for kind in (Kind.UP, Kind.DOWN)]
            there, back = noise(3, 30_000), noise(4, 40_000)
            await send(near[1], there)
            await send(far[1], back, end=False)
            # A second connection shows that the link has had its turns; it is dialled on, and stays as mute.
            second_near, second_far = await dial()
            await send(second_near[1], b"hello")
            await send(second_far[1], b"there")
            await turns()
            assert [counted(bench, kind) for kind in (Kind.UP, Kind.DOWN)] == before
            for reader, _ in (near, far, second_near, second_far):
                assert not reader._buffer
                assert not reader.at_eof()
            await link.heal()
            assert await far[0].read() == there
            assert await near[0].readexactly(len(back)) == back
            assert await second_far[0].read() == b"hello"
            assert await second_near[0].read() == b"there"

    asyncio.run(scenario())


def test_silence_holds_back_the_end_of_a_connection_made_meanwhile(bench):
    async def scenario():
        async with linked(bench) as (link, _, dial):
            await link.cut("silent")
            near, far = await dial()
            near[1].write_eof()
            ended = asyncio.create_task(far[0].read())
            await bench.until(lambda: len(sides(link)) == 2)
            await turns()
            assert not ended.done()
            await link.heal()
            assert await ended == b""

    asyncio.run(scenario())


def test_silence_under_load_loses_nothing_in_either_direction(bench):
    async def scenario():
        async with linked(bench) as (link, _, dial):
            near, far = await dial()
            there, back = noise(5, 4_000_000), noise(6, 4_000_000)
            passing = asyncio.gather(send(near[1], there), send(far[1], back), far[0].read(), near[0].read())
            for fraction in (4, 2):
                await bench.until(lambda part=fraction: counted(bench, Kind.UP) > len(there) / part / 2)
                await link.cut("silent")
                at_cut = counted(bench, Kind.UP)
                await turns(50)
                assert counted(bench, Kind.UP) == at_cut
                await link.heal()
            _, _, arrived, returned = await passing
            assert arrived == there
            assert returned == back
            assert (counted(bench, Kind.UP), counted(bench, Kind.DOWN)) == (len(there), len(back))

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", LINK_KINDS)
def test_every_outage_is_recorded_from_cut_to_heal(bench, kind):
    async def scenario():
        async with linked(bench) as (link, _, _):
            for _ in range(2):
                await link.cut(kind)
                await link.heal()
            assert len(bench.records("link", Kind.CUT)) == 2
            assert len(bench.records("link", Kind.HEALED)) == 2

    asyncio.run(scenario())


def test_a_peer_that_does_not_read_stops_the_one_that_sends_before_the_link_grows(bench):
    async def scenario():
        async with linked(bench) as (link, _, dial):
            near, far = await dial()
            far[1].transport.pause_reading()
            sent, chunk = 0, b"z" * 262_144
            near[1].transport.set_write_buffer_limits(high=0)
            try:
                while sent < 200_000_000:
                    near[1].write(chunk)
                    async with asyncio.timeout(1):
                        await near[1].drain()
                    sent += len(chunk)
            except TimeoutError:
                pass
            # What two pairs of kernel buffers hold is megabytes; the link adds its own few 100 KiB.
            assert sent < 50_000_000
            held = sum(side.transport.get_write_buffer_size() + side._held_bytes for side in sides(link))
            assert held < 2_000_000
            far[1].transport.resume_reading()

            async def count():
                total = 0
                while data := await far[0].read(1_000_000):
                    total += len(data)
                return total

            near[1].write_eof()
            assert await count() == sent + len(chunk)

    asyncio.run(scenario())


async def passes_both_ways(near, far):
    """Whether what each side sends reaches the other."""
    for (_, writer), (reader, _) in ((near, far), (far, near)):
        await send(writer, b"hello", end=False)
        assert await reader.readexactly(5) == b"hello"


def test_while_new_connections_are_refused_the_open_ones_go_on_and_the_same_port_listens_again(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, dial):
            port, dialled = link._routes[0].port, 1
            lasting = await dial()
            for _ in range(4):
                await link.cut("refuse")
                for _ in range(2):
                    with pytest.raises(ConnectionRefusedError):
                        await asyncio.open_connection("127.0.0.1", port)
                await passes_both_ways(*lasting)
                assert len(upstream.writers) == dialled
                await link.heal()
                await passes_both_ways(*await dial())
                await passes_both_ways(*lasting)
                dialled += 1
                assert link._routes[0].port == port

    asyncio.run(scenario())


@pytest.mark.parametrize("meanwhile", [False, True], ids=["open before", "made meanwhile"])
@pytest.mark.parametrize("consumer_dials", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 99, 199, 200, 5000, 3_000_000])
def test_a_message_is_cut_before_its_end_and_an_orderly_end_follows(bench, size, consumer_dials, meanwhile):
    async def scenario():
        async with linked(bench, consumer_dials) as (link, _, dial):
            if meanwhile:
                await link.cut("midmessage")
            near, far = await dial()
            consumer, producer = (near, far) if consumer_dials else (far, near)
            await bench.until(lambda: all(side._peer for side in sides(link)) and len(sides(link)) == 2)
            if not meanwhile:
                await link.cut("midmessage")
            # Up to the consumer's end, the other direction works.
            await send(consumer[1], b"question", end=False)
            assert await producer[0].readexactly(8) == b"question"
            message = noise(8, size)
            producer[1].write(message)
            arrived = await consumer[0].read()
            assert len(arrived) < size
            assert message.startswith(arrived)
            if size < 10_000:
                assert len(arrived) == size - min(100, (size + 1) // 2)
                assert await producer[0].read() == b""
            assert (counted(bench, Kind.DOWN), counted(bench, Kind.UP)) == (len(arrived), 8)
            await link.heal()
            await passes_both_ways(*await dial())

    asyncio.run(scenario())


@pytest.mark.parametrize("consumer_dials", [True, False])
def test_a_message_that_is_there_before_the_link_has_dialled_on_is_cut_likewise(bench, consumer_dials):
    async def scenario():
        async with linked(bench, consumer_dials) as (link, upstream, _):
            await link.cut("midmessage")
            message = noise(9, 1000)
            with socket.create_connection(("127.0.0.1", link._routes[0].port)) as near:
                near.sendall(message)
                reader, writer = await upstream.connections.get()
                if consumer_dials:
                    assert await reader.readexactly(1000) == message
                    near.setblocking(False)
                    writer.write(message)
                    loop, arrived = asyncio.get_running_loop(), b""
                    while part := await loop.sock_recv(near, 10_000):
                        arrived += part
                else:
                    arrived = await reader.read()
            assert arrived == message[:900]
            assert counted(bench, Kind.DOWN) == 900

    asyncio.run(scenario())


async def timed(sender, receiver, chunks):
    """Sends chunks one by one and receives them: for each, the seconds it took."""
    loop, sent, took = asyncio.get_running_loop(), [], []

    async def receive():
        for number, chunk in enumerate(chunks):
            assert await receiver[0].readexactly(len(chunk)) == chunk
            took.append(loop.time() - sent[number])

    receiving = asyncio.create_task(receive())
    for chunk in chunks:
        sent.append(loop.time())
        await send(sender[1], chunk, end=False)
        await turns(20)
    await receiving
    return took


@pytest.mark.parametrize("jitter", [0, 0.05])
def test_every_byte_takes_the_delay_each_way_and_jitter_keeps_order_and_content(bench, jitter):
    async def scenario():
        async with linked(bench, delay=0.06, jitter=jitter) as (link, _, dial):
            near, far = await dial()
            chunks = [noise(number, 500 + number) for number in range(40)]
            there, back = await asyncio.gather(timed(near, far, chunks), timed(far, near, chunks))
            assert min(there) >= 0.06
            assert min(back) >= 0.06
            total = sum(map(len, chunks))
            assert (counted(bench, Kind.UP), counted(bench, Kind.DOWN)) == (total, total)
            near[1].write_eof()
            far[1].write_eof()
            assert (await near[0].read(), await far[0].read()) == (b"", b"")
            await bench.until(lambda: not sides(link))

    asyncio.run(scenario())


def test_jitter_is_drawn_anew_for_each_chunk_and_comes_from_the_seed(bench):
    with closing(Ledger(bench.folder / "link.ledger")) as ledger:
        links = [Link(ledger, Conditions(delay=5, jitter=10), seed) for seed in (1, 1, 2)]
        drawn = [[round(link.crosses(Kind.UP, 100) - time.monotonic(), 1) for _ in range(50)] for link in links]
        assert all(4.9 <= taken <= 15.1 for taken in drawn[0])
        assert len(set(drawn[0])) > 10
        assert all(abs(one - other) < 0.5 for one, other in zip(drawn[0], drawn[1], strict=True))
        assert sum(abs(one - other) > 0.5 for one, other in zip(drawn[0], drawn[2], strict=True)) > 10


def test_all_connections_share_the_bandwidth_of_one_direction_and_the_ends_come_after_the_bytes(bench):
    async def scenario():
        async with linked(bench, bandwidth=1_000_000) as (_, _, dial):
            loop, (first, second), data = asyncio.get_running_loop(), (await dial(), await dial()), noise(10, 150_000)
            begin = loop.time()
            arrived = await asyncio.gather(
                send(first[0][1], data), send(second[0][1], data), first[1][0].read(), second[1][0].read()
            )
            assert loop.time() - begin >= 0.3
            assert arrived[2:] == [data, data]
            assert counted(bench, Kind.UP) == 300_000

    asyncio.run(scenario())


def test_one_directions_bytes_do_not_use_up_the_others_bandwidth(bench):
    with closing(Ledger(bench.folder / "link.ledger")) as ledger:
        link = Link(ledger, Conditions(bandwidth=1000))
        now = time.monotonic()
        assert link.crosses(Kind.UP, 1_000_000) >= now + 1000
        assert link.crosses(Kind.UP, 1_000_000) >= now + 2000
        assert now + 1000 <= link.crosses(Kind.DOWN, 1_000_000) < now + 1900


def test_a_slow_link_lets_its_sender_wait_before_it_grows(bench):
    async def scenario():
        async with linked(bench, bandwidth=1000) as (link, _, dial):
            near, _ = await dial()
            near[1].transport.set_write_buffer_limits(high=0)
            near[1].write(noise(11, 40_000_000))
            await bench.until(lambda: sum(side._held_bytes for side in sides(link)) > UNDER_WAY)
            await turns(500)
            assert sum(side._held_bytes for side in sides(link)) < 2 * UNDER_WAY
            assert near[1].transport.get_write_buffer_size() > 10_000_000

    asyncio.run(scenario())


def test_silence_holds_what_is_under_way_on_a_slow_link_and_after_it_nothing_is_missing(bench):
    async def scenario():
        async with linked(bench, delay=0.03, jitter=0.02) as (link, _, dial):
            near, far = await dial()
            there, back = noise(12, 20_000), noise(13, 30_000)
            await send(near[1], there, end=False)
            await bench.until(lambda: sum(side._held_bytes for side in sides(link)) == len(there))
            await link.cut("silent")
            await send(far[1], back)
            # By then all that was under way would have crossed.
            crossed = link.crosses(Kind.UP, 0) + 0.02
            await bench.until(lambda: time.monotonic() > crossed)
            await turns()
            assert (counted(bench, Kind.UP), counted(bench, Kind.DOWN)) == (0, 0)
            assert not near[0]._buffer
            assert not far[0]._buffer
            await link.heal()
            await send(near[1], there)
            assert await far[0].read() == 2 * there
            assert await near[0].read() == back

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["reset", "close", "refuse"])
def test_a_slow_link_is_as_slow_again_after_an_outage(bench, kind):
    async def scenario():
        async with linked(bench, delay=0.05) as (link, _, dial):
            await timed(*await dial(), [b"before"])
            for _ in range(2):
                await link.cut(kind)
                await link.heal()
            assert min(await timed(*await dial(), [b"after", b"that"])) >= 0.05

    asyncio.run(scenario())


def test_a_message_cut_on_a_slow_link_follows_what_was_under_way_and_takes_the_delay_too(bench):
    async def scenario():
        async with linked(bench, delay=0.05) as (link, _, dial):
            near, far = await dial()
            loop = asyncio.get_running_loop()
            earlier, message = noise(14, 1000), noise(15, 1000)
            await send(far[1], earlier, end=False)
            await bench.until(lambda: sum(side._held_bytes for side in sides(link)) == 1000)
            await link.cut("midmessage")
            begin = loop.time()
            await send(far[1], message, end=False)
            assert await near[0].readexactly(1000) == earlier
            assert await near[0].read() == message[:900]
            assert loop.time() - begin >= 0.05
            assert await far[0].read() == b""
            assert counted(bench, Kind.DOWN) == 1900

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", LINK_KINDS)
def test_a_spared_route_is_never_cut(bench, kind):
    async def scenario():
        async with linked(bench, spared=True) as (link, upstream, dial):
            struck = int((await link.route(f"http://127.0.0.1:{upstream.port}", True)).rpartition(":")[2])
            lasting = await dial()
            await link.cut(kind)
            assert [route.outage for route in link._routes] == [None, kind]
            if kind == "refuse":
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", struck)
            await passes_both_ways(*lasting)
            await passes_both_ways(*await dial())
            await link.heal()
            await passes_both_ways(*lasting)

    asyncio.run(scenario())


def test_a_new_target_gets_the_next_connections_and_the_open_ones_stay_where_they_are(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, dial), Upstream() as other, Upstream() as third:
            elsewhere = await link.route(f"nats://127.0.0.1:{third.port}", True)
            lasting = await dial()
            link.retarget(f"http://127.0.0.1:{upstream.port}", f"http://127.0.0.1:{other.port}/new")
            near, _ = await dial(accepted=False)
            await passes_both_ways(near, await other.connections.get())
            await passes_both_ways(*lasting)
            assert upstream.connections.empty()
            # What leads elsewhere still does.
            near = await asyncio.open_connection("127.0.0.1", int(elsewhere.rpartition(":")[2]))
            await passes_both_ways(near, await third.connections.get())
            near[1].transport.abort()

    asyncio.run(scenario())


@pytest.mark.parametrize("consumer_dials", [True, False])
def test_a_tap_gets_the_bytes_that_the_ledger_counts_record_by_record(bench, consumer_dials):
    async def scenario():
        tap = io.BytesIO()
        async with linked(bench, consumer_dials, tap=tap) as (_, _, dial):
            first, second = await dial(), await dial()
            for number, ((reader, writer), (other, answers)) in enumerate((first, second, first)):
                await send(writer, noise(number, 50_000), end=False)
                assert await other.readexactly(50_000) == noise(number, 50_000)
                await send(answers, noise(number + 10, 300), end=False)
                assert await reader.readexactly(300) == noise(number + 10, 300)
        crossed = read(bench.folder / "link.ledger")
        crossed = crossed[(crossed["kind"] == Kind.UP) | (crossed["kind"] == Kind.DOWN)]
        streams, at = defaultdict(bytes), 0
        for record in crossed:
            streams[int(record["sequence"]), int(record["kind"])] += tap.getvalue()[at : at + record["value"]]
            at += record["value"]
        asks, answers = (Kind.UP, Kind.DOWN) if consumer_dials else (Kind.DOWN, Kind.UP)
        assert at == len(tap.getvalue())
        assert streams == {
            (1, asks): noise(0, 50_000) + noise(2, 50_000),
            (1, answers): noise(10, 300) + noise(12, 300),
            (2, asks): noise(1, 50_000),
            (2, answers): noise(11, 300),
        }

    asyncio.run(scenario())


def test_a_tap_gets_no_more_of_a_message_than_was_passed_on(bench):
    async def scenario():
        tap = io.BytesIO()
        async with linked(bench, tap=tap) as (link, _, dial):
            near, far = await dial()
            await bench.until(lambda: all(side._peer for side in sides(link)) and len(sides(link)) == 2)
            await link.cut("midmessage")
            await send(far[1], noise(16, 1000), end=False)
            assert await near[0].read() == tap.getvalue() == noise(16, 1000)[:900]

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_every_connection_that_was_accepted_is_recorded_with_its_number(bench, kind):
    async def scenario():
        async with linked(bench) as (link, upstream, dial):
            other = int((await link.route(f"http://127.0.0.1:{upstream.port}", False)).rpartition(":")[2])
            await passes_both_ways(*await dial())
            _, writer = await asyncio.open_connection("127.0.0.1", other)
            await upstream.connections.get()
            await link.cut(kind)
            await dial(accepted=False)
            await bench.until(lambda: len(bench.records("link", Kind.CONNECTED)) == 3)
            await link.heal()
            await passes_both_ways(*await dial())
            writer.transport.abort()
        assert [value for _, _, value in bench.records("link", Kind.CONNECTED)] == [1, 2, 3, 4]

    asyncio.run(scenario())
