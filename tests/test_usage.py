"""CPU seconds of this process and of another, and memory."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit.usage import Usage

TICK = 0.01
"""Seconds: the grain in which the system counts other processes."""


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_its_own_cpu_is_counted_finer_than_the_systems_ticks() -> None:
    usage, found = Usage(), []
    usage.start()
    for _ in range(20):
        burn(TICK / 10)
        found.append(usage.cpu_s)
    steps = [later - before for before, later in zip([0.0, *found], found, strict=False)]
    assert all(step >= TICK / 10 for step in steps)
    assert sorted(steps)[len(steps) // 2] < TICK / 2


def test_waiting_costs_no_cpu() -> None:
    usage = Usage()
    waiting = subprocess.Popen([sys.executable, "-c", "sum(range(10_000_000))"])
    before = time.monotonic()
    waiting.wait()
    assert usage.cpu_s < (time.monotonic() - before) / 2


def test_it_counts_from_the_last_start() -> None:
    usage = Usage()
    burn(5 * TICK)
    assert usage.cpu_s >= 5 * TICK
    usage.start()
    assert usage.cpu_s < 5 * TICK


def test_another_process_is_counted_by_its_own_time() -> None:
    code = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        usage = Usage(child.pid)
        child.stdout.readline()
        assert 0 < usage.cpu_s <= 0.3 + 10 * TICK
        used = usage.to_json()
        assert used["peak_rss"] > 1_000_000
        assert used["cpu_s"] == pytest.approx(usage.cpu_s, abs=2 * TICK)
    finally:
        child.communicate(b"")


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this system counts other processes in ticks only"
)
def test_another_process_is_counted_finer_than_the_systems_ticks() -> None:
    busy = "end = time.process_time() + 0.002\nwhile time.process_time() < end: pass"
    say = "print(flush=True)"
    code = f"import sys, time\n{say}\nsys.stdin.readline()\n{busy}\n{say}\nsys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        usage = Usage(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        assert 0.002 <= usage.cpu_s < TICK
    finally:
        child.communicate(b"")


def test_memory_is_the_most_that_any_look_saw() -> None:
    """In a process of its own: in one that had more before, a block takes no new memory."""
    code = """
from labkit.usage import Usage
usage = Usage()
usage.look()
small = usage.peak
block = bytearray(b"x") * 50_000_000
usage.look()
high = usage.peak
del block
print(small, high, usage.to_json()["peak_rss"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    small, high, last = map(int, done.stdout.split())
    assert high >= small + 25_000_000
    assert last >= high
