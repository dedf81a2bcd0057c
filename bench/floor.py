"""How far labkit is above the floor: its latency and its flat-out rate, beside the bare scripts', in alternation.

    python bench/floor.py [--quick] [--alternations N] [PROTOCOL ...]

Prints a Markdown table. Latency: first arrival minus due time, one subscriber. Rate: deliveries over the time from the
first send to the last arrival, ten subscribers, nothing lost. Both are medians over the alternations.
"""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from labkit.broker import Broker
from labkit.errors import TrialError
from labkit.ledger import Kind, read
from labkit.protocols import PROTOCOLS
from labkit.provenance import machine, versions
from labkit.results import Run
from labkit.runner import Plan, Runner
from labkit.station import Station
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.workload import Workload

BARE = Path(__file__).with_name("bare.py")
RATE, SIZE, SUBSCRIBERS = 500, 256, 10
FLOOD = {
    "websocket": 12_000,
    "webhook": 800,
    "resthooks": 800,
    "pubsub": 12_000,
    "sse": 12_000,
    "polling": 60_000,
    "longpolling": 60_000,
}
"""Events offered flat out, for about two seconds of work each."""

FLOOD_POLL = 0.01
"""Seconds between polls when flat out; at the lab's own interval nothing but that would be measured."""

QUIET_NS = 300_000_000


def guarantee(protocol: str) -> Guarantee:
    """At-most-once, but for the baselines: "give me the latest" is not the same work as delivering every event."""
    return Guarantee.AT_LEAST_ONCE if PROTOCOLS[protocol].baseline else Guarantee.AT_MOST_ONCE


def labkit_p50(protocol: str, seconds: float, folder: Path) -> float:
    """Milliseconds."""
    workload = Workload(rate=RATE, duration=seconds, size=SIZE, subscribers=1)
    plan = Plan(workload, (protocol,), (guarantee(protocol),), (Measure.LATENCY,))
    for error in Runner(plan, folder, [], lambda *_: None).run().values():
        raise TrialError(error)
    return float(Run(folder).latency["p50_ms"].iloc[0])


def labkit_rate(protocol: str, count: int, folder: Path) -> float:
    """Deliveries per second; TrialError when one is missing."""
    folder.mkdir()
    workload = Workload(rate=count, duration=1, size=SIZE, subscribers=SUBSCRIBERS)
    timings = Timings(poll=FLOOD_POLL)
    trial = Trial("flood", Measure.LATENCY, protocol, guarantee(protocol), workload, uid="flood", timings=timings)
    with Station("flood", folder, threading.Event()) as station:
        broker = station.node("broker").ask("open") if PROTOCOLS[protocol].brokered else None
        if broker:
            station.node("broker").owned = broker["pid"]
        producer, consumer = station.node("producer"), station.node("consumer")
        for node in (producer, consumer):
            node.tell("open", spec=trial.to_json(), ledger=str(folder / f"{node.role}.ledger"))
        producer_url, consumer_url = producer.answer()["url"], consumer.answer()["url"]
        producer.ask("connect", peer=broker["url"] if broker else consumer_url)
        consumer.ask("connect", peer=broker["url"] if broker else producer_url, public=consumer_url)
        producer.ask("warm")
        while consumer.ask("warm") < SUBSCRIBERS:
            pass
        consumer.ask("load", start_ns=0)
        producer.ask("flood", count=count)
        while time.monotonic_ns() - consumer.ask("status")["last_arrival_ns"] < QUIET_NS:
            threading.Event().wait(0.1)
        consumer.ask("close")
        producer.ask("close")
    sent, received = read(folder / "producer.ledger"), read(folder / "consumer.ledger")
    sent = sent[(sent["kind"] == Kind.SENT) & (sent["sequence"] >= workload.first)]
    received = received[(received["kind"] == Kind.RECEIVED) & (received["sequence"] >= workload.first)]
    if len(received) != count * SUBSCRIBERS:
        raise TrialError(f"Flat out, {protocol} delivered {len(received)} of {count * SUBSCRIBERS}.")
    return len(received) / (int(received["time_ns"].max()) - int(sent["time_ns"].min())) * 1e9


def bare(protocol: str, count: int, rate: int, subscribers: int, poll: float) -> tuple[int, list[tuple[int, int]]]:
    """Runs the pair of bare scripts; returns the start and every arrival of the load as (sequence, ns)."""
    with broker(protocol) as url, child(protocol, "producer", count, rate, subscribers, poll) as producer:
        producer_url = hear(producer)
        with child(protocol, "consumer", count, rate, subscribers, poll) as consumer:
            say(consumer, url or producer_url)
            say(producer, hear(consumer) or url)
            start, arrivals = int(hear(producer)), json.loads(hear(consumer))
    return start, [(sequence, at) for sequence, at in arrivals if sequence >= Workload().first]


@contextmanager
def broker(protocol: str) -> Iterator[str]:
    """The URL of a broker, where the protocol needs one."""
    if not PROTOCOLS[protocol].brokered:
        yield ""
        return
    server = Broker()
    try:
        yield asyncio.run(server.open())
    finally:
        server.close()


@contextmanager
def child(protocol: str, side: str, *arguments: float) -> "Iterator[subprocess.Popen[str]]":
    """One bare script, ended when the block is left."""
    count, rate, subscribers, poll = map(str, arguments)
    command = [sys.executable, str(BARE), protocol, side, count, rate, subscribers, str(SIZE), poll]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: "subprocess.Popen[str]", line: str) -> None:
    """Tells a bare script where the other is."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: "subprocess.Popen[str]") -> str:
    """A bare script's next line; TrialError when it ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise TrialError("A bare script ended early; its error is above.")
    return line.strip()


def bare_p50(protocol: str, seconds: float) -> float:
    """Milliseconds."""
    start, arrivals = bare(protocol, round(RATE * seconds), RATE, 1, Timings().poll)
    due = {item.sequence: item.due_ns for item in Workload(rate=RATE, duration=seconds, size=SIZE).schedule()}
    return statistics.median(at - start - due[sequence] for sequence, at in arrivals) / 1e6


def bare_rate(protocol: str, count: int) -> float:
    """Deliveries per second."""
    start, arrivals = bare(protocol, count, 0, SUBSCRIBERS, FLOOD_POLL)
    return len(arrivals) / (max(at for _, at in arrivals) - start) * 1e9


def measure(protocols: list[str], alternations: int, seconds: float, share: float) -> Iterator[str]:
    """The rows of the table, each protocol's as soon as it is there."""
    steps = tqdm(total=len(protocols) * alternations * 4, unit="measurement", leave=False, disable=None)
    with steps, tempfile.TemporaryDirectory(prefix="labkit-bench-") as place:
        for protocol in protocols:
            count = round(FLOOD[protocol] * share)
            figures: tuple[list[float], ...] = ([], [], [], [])
            for turn in range(alternations):
                folder = Path(place) / f"{protocol}{turn}"
                for index, result in enumerate(
                    (
                        lambda folder=folder: labkit_p50(protocol, seconds, folder / "latency"),
                        lambda: bare_p50(protocol, seconds),
                        lambda folder=folder: labkit_rate(protocol, count, folder / "flood"),
                        lambda: bare_rate(protocol, count),
                    )
                ):
                    figures[index].append(result())
                    steps.update()
            p50, bare_p50_, rate, bare_rate_ = map(statistics.median, figures)
            yield (
                f"| {PROTOCOLS[protocol].title} | {p50:.3f} | {bare_p50_:.3f} | {p50 / bare_p50_:.2f} "
                f"| {rate:,.0f} | {bare_rate_:,.0f} | {rate / bare_rate_:.2f} |"
            )
