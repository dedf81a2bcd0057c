"""How far labkit is above the floor: its latency and its flat-out rate beside the bare scripts', in alternation.

    python bench/floor.py [--quick] [--alternations N] [PROTOCOL ...]

Prints a Markdown table. Latency: first arrival minus due time, one subscriber. Rate: deliveries over the time from the
first send to the last arrival, ten subscribers, nothing lost. Each figure is the median over the alternations.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from labkit.errors import TrialError, UsageError
from labkit.ledger import Kind, are, read
from labkit.plan import Plan
from labkit.protocols import PROTOCOLS, find
from labkit.provenance import machine, versions
from labkit.results import Run
from labkit.runner import Runner
from labkit.station import Station
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.workload import Workload

Figures = dict[str, list[tuple[float, float, float, float]]]

BARE = Path(__file__).with_name("bare.py")
RATE, SIZE, SUBSCRIBERS = 500, 256, 10
FLOOD = {
    "websocket": 20_000,
    "webhook": 1_200,
    "resthooks": 1_200,
    "pubsub": 20_000,
    "sse": 25_000,
    "polling": 60_000,
    "longpolling": 60_000,
}
"""Events offered flat out: a second or so of work."""

FLOOD_POLL = 0.01
"""Seconds between polls when flat out; with the lab's own interval the rate would be that of the interval."""

BUDGET = 225.0
"""Seconds; no alternation is begun that would probably end later."""

UNSTEADY = 1.5
"""Alternations whose highest figure is so many times the lowest are named below the table."""


def guarantee(protocol: str) -> Guarantee:
    """At-most-once; for the baselines the cursor, as "give me the latest" does not deliver every event."""
    return Guarantee.AT_LEAST_ONCE if find(protocol).baseline else Guarantee.AT_MOST_ONCE


@contextmanager
def station(protocol: str, folder: Path) -> Iterator[tuple[Station, str]]:
    """A station of labkit's nodes, and the URL of its broker where the protocol needs one."""
    folder.mkdir(parents=True)
    with Station("bench", folder, threading.Event()) as nodes:
        url = ""
        if find(protocol).brokered:
            opened = nodes.node("broker").ask("open")
            url, nodes.node("broker").owned = opened["url"], opened["pid"]
        yield nodes, url


def labkit_p50(protocol: str, seconds: float, folder: Path) -> float:
    """Milliseconds."""
    workload = Workload(rate=RATE, duration=seconds, size=SIZE, subscribers=1)
    plan = Plan(workload, (protocol,), (guarantee(protocol),), (Measure.LATENCY,))
    for error in Runner(plan, folder, [], lambda *_: None).run().values():
        raise TrialError(error)
    return float(Run(folder).latency["p50_ms"].iloc[0])


def labkit_rate(protocol: str, count: int, folder: Path) -> float:
    """Deliveries per second; TrialError when one is missing."""
    workload = Workload(rate=count, duration=1, size=SIZE, subscribers=SUBSCRIBERS)
    timings = Timings(poll=FLOOD_POLL)
    trial = Trial("flood", Measure.LATENCY, protocol, guarantee(protocol), workload, uid="flood", timings=timings)
    ledgers = {role: folder / f"{role}.ledger" for role in ("producer", "consumer")}
    with station(protocol, folder) as (nodes, broker):
        producer, consumer = nodes.node("producer"), nodes.node("consumer")
        for node in (producer, consumer):
            hosts = {"hosts": (0, SUBSCRIBERS)} if node is consumer else {}
            node.tell("open", spec=trial.to_json(), ledger=str(ledgers[node.role]), **hosts)
        producer_url, consumer_url = producer.answer()["url"], consumer.answer()["url"]
        producer.ask("connect", peer=broker or consumer_url)
        consumer.ask("connect", peer=broker or producer_url, public=consumer_url)
        producer.ask("warm_up")
        wait_until(lambda: consumer.ask("warm") == SUBSCRIBERS)
        consumer.ask("load", start_ns=0)
        producer.ask("flood", count=count)
        wait_until(lambda: time.monotonic_ns() - consumer.ask("status")["last_arrival_ns"] > 300_000_000)
        consumer.ask("close")
        producer.ask("close")
    sent, received = (load(read(path), workload.first) for path in ledgers.values())
    if len(received) != count * SUBSCRIBERS:
        raise TrialError(f"Flat out, {protocol} delivered {len(received)} of {count * SUBSCRIBERS}.")
    return float(len(received) / (received.max() - sent.min()) * 1e9)


def load(records: "np.ndarray", first: int) -> NDArray[np.int64]:
    """When the events of the load were sent or received."""
    wanted = are(records, Kind.SENT, Kind.RECEIVED) & (records["sequence"] >= first)
    return np.asarray(records["time_ns"][wanted], np.int64)


def wait_until(condition: Callable[[], bool], limit: float = 20.0) -> None:
    """Looks ten times a second; TrialError at the limit."""
    until, pause = time.monotonic() + limit, threading.Event()
    while not condition():
        if time.monotonic() > until:
            raise TrialError(f"labkit's nodes were not done within {limit:g} s.")
        pause.wait(0.1)


def bare(protocol: str, count: int, rate: int, subscribers: int, poll: float, folder: Path) -> tuple[int, "np.ndarray"]:
    """Runs the pair of bare scripts; returns the start and every arrival of the load as (sequence, ns)."""
    arguments = [str(value) for value in (count, rate, subscribers, SIZE, poll)]
    with (
        station(protocol, folder) as (_, broker),
        script(protocol, "producer", *arguments) as producer,
        script(protocol, "consumer", *arguments) as consumer,
    ):
        say(consumer, broker or hear(producer))
        if broker:
            hear(producer)
        say(producer, hear(consumer) or broker)
        start = int(hear(producer))
        assert consumer.stdout is not None
        arrivals = np.frombuffer(consumer.stdout.read(), np.int64).reshape(-1, 2)
    first = Workload().first
    if len(arrivals) != (count + first) * subscribers:
        raise TrialError(f"The bare script of {protocol} did not get everything in time; its error is above.")
    return start, arrivals[arrivals[:, 0] >= first]


@contextmanager
def script(*arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """One bare script, ended when the block is left."""
    command = [sys.executable, str(BARE), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: "subprocess.Popen[bytes]", line: str) -> None:
    """Tells a bare script where the other is."""
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def hear(process: "subprocess.Popen[bytes]") -> str:
    """A bare script's next line; TrialError when it ended instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise TrialError("A bare script ended early; its error is above.")
    return line.decode().strip()


def bare_p50(protocol: str, seconds: float, folder: Path) -> float:
    """Milliseconds."""
    schedule = Workload(rate=RATE, duration=seconds, size=SIZE).schedule()
    start, arrivals = bare(protocol, len(schedule), RATE, 1, Timings().poll, folder)
    due = start + np.array([item.due_ns for item in schedule])
    return float(np.median(arrivals[:, 1] - due[arrivals[:, 0] - schedule[0].sequence]) / 1e6)


def bare_rate(protocol: str, count: int, folder: Path) -> float:
    """Deliveries per second."""
    start, arrivals = bare(protocol, count, 0, SUBSCRIBERS, FLOOD_POLL, folder)
    return float(len(arrivals) / (arrivals[:, 1].max() - start) * 1e9)


def measure(protocols: list[str], alternations: int, seconds: float, share: float) -> Figures:
    """Each protocol's labkit and bare p50, labkit and bare rate, as often as there is time for."""
    figures: Figures = defaultdict(list)
    began = time.monotonic()
    progress = tqdm(total=alternations * len(protocols), unit="protocol", leave=False, disable=None)
    with progress, tempfile.TemporaryDirectory(prefix="labkit-bench-") as place:
        for turn in range(alternations):
            if turn and (time.monotonic() - began) * (turn + 1) / turn > BUDGET:
                break
            for protocol in protocols:
                folder, count = Path(place) / f"{turn}-{protocol}", round(FLOOD[protocol] * share)
                row = (
                    labkit_p50(protocol, seconds, folder / "1"),
                    bare_p50(protocol, seconds, folder / "2"),
                    labkit_rate(protocol, count, folder / "3"),
                    bare_rate(protocol, count, folder / "4"),
                )
                figures[protocol].append(row)
                progress.update()
    return figures


def report(figures: Figures, seconds: float) -> Iterator[str]:
    """The table, the line above it and the notes below it."""
    here, made = machine(), versions()
    loop = f"uvloop {made['uvloop']}" if made["uvloop"] else "asyncio"
    turns = len(next(iter(figures.values())))
    yield f"{here['cpu']}, {here['cores']} cores, {here['system']}, Python {made['python']}, {loop}."
    yield f"Medians of {turns} measurements, labkit and bare in turn."
    yield ""
    yield "| protocol | p50 ms, labkit | bare | ratio | deliveries/s, labkit | bare | ratio |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    unsteady = []
    for protocol, rows in figures.items():
        columns = list(zip(*rows, strict=True))
        p50, bare_p50, rate, bare_rate = map(median, columns)
        yield (
            f"| {find(protocol).title} | {p50:.3f} | {bare_p50:.3f} | {p50 / bare_p50:.2f} "
            f"| {rate:,.0f} | {bare_rate:,.0f} | {rate / bare_rate:.2f} |"
        )
        for name, column in zip(("labkit p50", "bare p50", "labkit rate", "bare rate"), columns, strict=True):
            if max(column) > UNSTEADY * min(column):
                unsteady.append(f"{protocol} {name} {min(column):,.4g} to {max(column):,.4g}")
    yield ""
    yield (
        f"Latency: {RATE} events/s of {SIZE} B to one subscriber for {seconds:g} s. Rate: flat out to {SUBSCRIBERS}. "
        f"Polling asks every {Timings().poll:g} s, flat out every {FLOOD_POLL:g} s; both baselines use the cursor."
    )
    if unsteady:
        yield f"Unsteady between alternations: {'; '.join(unsteady)}."


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help=f"any of {', '.join(PROTOCOLS)} (all)")
    parser.add_argument("--alternations", type=int, default=3, help="measurements of each figure (3)")
    parser.add_argument("--quick", action="store_true", help="one short alternation: under a minute, and rough")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    alternations, seconds, share = (1, 1.0, 0.25) if options.quick else (max(1, options.alternations), 3.0, 1.0)
    try:
        protocols = [protocol for protocol in options.protocols or PROTOCOLS if find(protocol)]
        for line in report(measure(protocols, alternations, seconds, share), seconds):
            print(line)
    except (TrialError, UsageError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
