import asyncio
import hashlib
import random
import socket
from contextlib import asynccontextmanager, closing

import psutil
import pytest

from labkit.ledger import Kind, Ledger
from labkit.link import Link

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
async def linked(bench, consumer_dials=True):
    """A link with a route to a plain server, and a way to connect through it: (link, upstream, dial)."""
    with closing(Ledger(bench.folder / "link.ledger")) as ledger:
        link, writers = Link(ledger), []
        async with Upstream() as upstream, asyncio.timeout(30):
            url = await link.route(f"http://127.0.0.1:{upstream.port}/path?q=1", consumer_dials)
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
            port = link._servers[0].sockets[0].getsockname()[1]
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
            port = link._servers[0].sockets[0].getsockname()[1]
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
            port = link._servers[0].sockets[0].getsockname()[1]
            assert url == f"nats://user:word@127.0.0.1:{port}"
            link.close()

    asyncio.run(scenario())


def test_a_reset_is_seen_by_both_sides_and_by_whoever_dials_until_it_heals(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, dial):
            near, far = await dial()
            link.cut("reset")
            for reader, _ in (near, far):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            (reader, _), _ = await dial(accepted=False)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert len(upstream.writers) == 1
            link.heal()
            near, far = await dial()
            await send(near[1], b"again")
            assert await far[0].read() == b"again"

    asyncio.run(scenario())


def test_a_close_is_an_orderly_end_for_both_sides_and_for_whoever_dials_until_it_heals(bench):
    async def scenario():
        async with linked(bench) as (link, upstream, dial):
            near, far = await dial()
            link.cut("close")
            assert await near[0].read() == b""
            assert await far[0].read() == b""
            (reader, _), _ = await dial(accepted=False)
            assert await reader.read() == b""
            assert len(upstream.writers) == 1
            link.heal()
            near, far = await dial()
            await send(near[1], b"again")
            assert await far[0].read() == b"again"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_a_connection_that_is_being_dialled_when_the_link_is_cut_does_not_survive(bench, kind):
    async def scenario():
        async with linked(bench) as (link, _, _):
            port = link._servers[0].sockets[0].getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as near:
                near.setblocking(False)
                loop = asyncio.get_running_loop()
                await bench.until(lambda: link._sides)
                link.cut(kind)
                if kind == "reset":
                    with pytest.raises(ConnectionResetError):
                        await loop.sock_recv(near, 1)
                else:
                    assert await loop.sock_recv(near, 1) == b""
            await bench.until(lambda: not link._sides)

    asyncio.run(scenario())


def test_silence_carries_nothing_either_way_and_loses_nothing(bench):
    async def scenario():
        async with linked(bench) as (link, _, dial):
            near, far = await dial()
            link.cut("silent")
            before = [counted(bench, kind) for kind in (Kind.UP, Kind.DOWN)]
            there, back = noise(3, 30_000), noise(4, 40_000)
            await send(near[1], there)
            await send(far[1], back, end=False)
            # A second connection shows that the link has had its turns; it is dialled on, and stays as mute.
            second_near, second_far = await dial()
            await send(second_near[1], b"hello")
            await send(second_far[1], b"there")
            for _ in range(200):
                await asyncio.sleep(0)
            assert [counted(bench, kind) for kind in (Kind.UP, Kind.DOWN)] == before
            for reader, _ in (near, far, second_near, second_far):
                assert not reader._buffer
                assert not reader.at_eof()
            link.heal()
            assert await far[0].read() == there
            assert await near[0].readexactly(len(back)) == back
            assert await second_far[0].read() == b"hello"
            assert await second_near[0].read() == b"there"

    asyncio.run(scenario())


def test_silence_holds_back_the_end_of_a_connection_made_meanwhile(bench):
    async def scenario():
        async with linked(bench) as (link, _, dial):
            link.cut("silent")
            near, far = await dial()
            near[1].write_eof()
            ended = asyncio.create_task(far[0].read())
            await bench.until(lambda: len(link._sides) == 2)
            for _ in range(200):
                await asyncio.sleep(0)
            assert not ended.done()
            link.heal()
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
                link.cut("silent")
                at_cut = counted(bench, Kind.UP)
                for _ in range(50):
                    await asyncio.sleep(0)
                assert counted(bench, Kind.UP) == at_cut
                link.heal()
            _, _, arrived, returned = await passing
            assert arrived == there
            assert returned == back
            assert (counted(bench, Kind.UP), counted(bench, Kind.DOWN)) == (len(there), len(back))

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["reset", "close", "silent"])
def test_every_outage_is_recorded_from_cut_to_heal(bench, kind):
    async def scenario():
        async with linked(bench) as (link, _, _):
            for _ in range(2):
                link.cut(kind)
                link.heal()
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
            held = sum(side.transport.get_write_buffer_size() + len(side._held) for side in link._sides)
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
