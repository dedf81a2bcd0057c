"""Facts in, findings out: each with what is wrong and what to do about it."""

from types import SimpleNamespace

import numpy as np
import pytest

from labkit import findings
from labkit.figures import SATURATED_MS
from labkit.findings import LITTLE_ROOM, ROOM, SLEEP_MS, STEP_MS, Finding, State, verdict

FILES, INFINITY = 4100, float("inf")
OK, WARNING, FAULT = State.OK, State.WARNING, State.FAULT


@pytest.mark.parametrize(
    ("running", "state"), [("3.11.0", OK), ("3.14.0rc2", OK), ("3.10.14", FAULT), ("3.9.0", FAULT)]
)
def test_python_is_compared_as_a_version_and_not_as_text(running, state):
    found = findings.python(running, ">=3.11")
    assert found.state is state
    assert running in found.found
    assert bool(found.fix) == (state is FAULT)


class TestPackages:
    ASKED = (
        "aiohttp>=3.14.4",
        "numpy>=2.0",
        'winloop>=1.0; sys_platform == "nowhere"',
        'pytest>=8.3; extra == "test"',
        "pandas>=2.2",
    )

    def judge(self, **installed):
        return findings.packages(self.ASKED, installed.get)

    def test_all_that_applies_here_is_there(self):
        (found,) = self.judge(aiohttp="3.14.10", numpy="2.0", pandas="3.0.0rc1")
        assert (found.state, found.found) == (OK, "all 3 are there and new enough")

    def test_each_that_is_missing_or_too_old_is_named_with_the_command_that_mends_it(self):
        old, missing = self.judge(aiohttp="3.9.1", pandas="2.2.0")
        assert old == Finding(
            "packages",
            FAULT,
            "aiohttp is 3.9.1; the lab needs >=3.14.4",
            'python -m pip install --upgrade "aiohttp>=3.14.4"',
        )
        assert missing.state is FAULT
        assert missing.found == "numpy is missing; the lab needs >=2.0"


def test_a_socket_that_fails_says_how():
    assert findings.sockets(None).state is OK
    refused = findings.sockets("timed out")
    assert refused.state is FAULT
    assert "timed out" in refused.found
    assert "firewall" in refused.fix


@pytest.mark.parametrize(
    ("proxies", "bypassed", "state"),
    [
        ({}, False, OK),
        ({"http": "http://proxy:3128"}, False, WARNING),
        ({"http": "http://proxy:3128"}, True, OK),
        ({"all": "socks5://proxy:1080"}, False, WARNING),
        ({"https": "http://proxy:3128"}, False, OK),
    ],
)
def test_a_proxy_matters_when_it_catches_plain_http_to_this_machine(proxies, bypassed, state):
    found = findings.proxy(proxies, bypassed)
    assert found.state is state
    assert ("NO_PROXY" in found.fix) == (state is WARNING)


@pytest.mark.parametrize(
    ("limits", "state", "words"),
    [
        (None, OK, "no such limit"),
        ((1024, FILES), OK, "1,024, which the lab raises by itself"),
        ((20_000, 20_000), OK, "20,000"),
        ((256, INFINITY), OK, "256, which the lab raises"),
        ((1024, FILES - 1), WARNING, "4,099 at most, enough for 1,999 subscribers; trials"),
        (
            (256, 256),
            WARNING,
            "256 at most, enough for 78 subscribers; trials of sweeps and claims that have more will fail",
        ),
        ((64, 64), WARNING, "enough for 0 subscribers"),
        ((INFINITY, INFINITY), OK, "inf"),
    ],
)
def test_what_counts_of_the_file_limits_is_how_far_they_can_be_raised(limits, state, words):
    found = findings.files(limits)
    assert found.state is state
    assert words in found.found
    assert ("ulimit -n 8192" in found.fix) == (state is WARNING)


@pytest.mark.parametrize(
    ("step_ms", "late_ms", "state", "words"),
    [
        (0.0001, 0.1, OK, ""),
        (STEP_MS, SLEEP_MS, OK, ""),
        (15.6, 0.1, WARNING, "Python 3.13"),
        (0.0001, SLEEP_MS * 1.01, WARNING, "battery saver"),
    ],
)
def test_a_coarse_clock_and_a_late_sleep_are_told_apart(step_ms, late_ms, state, words):
    found = findings.clock(step_ms, late_ms)
    assert found.state is state
    assert words in found.fix


def test_a_program_that_only_some_exercises_need_is_a_warning():
    assert findings.program("curl", "/usr/bin/curl", "u", "f") == Finding("curl", OK, "/usr/bin/curl")
    assert findings.program("curl", None, "commands need it", "get it") == Finding(
        "curl", WARNING, "none found; commands need it", "get it"
    )


@pytest.mark.parametrize(
    ("free", "state"), [(ROOM, OK), (ROOM - 1, WARNING), (LITTLE_ROOM, WARNING), (LITTLE_ROOM - 1, FAULT), (0, FAULT)]
)
def test_disk_room(free, state):
    found = findings.disk(free, "/a/folder")
    assert found.state is state
    assert "/a/folder" in found.found
    assert bool(found.fix) == (state is not OK)


def recording(delivered=2000, owed=2000, verdict="complete", late_ms=0.1):
    outcome = SimpleNamespace(delivered=delivered, owed=np.array([[owed]]), verdict=verdict)
    return SimpleNamespace(
        outcome=outcome,
        trial=SimpleNamespace(protocol="sse"),
        latencies_ms=lambda: np.linspace(0.0, 10.0, delivered),
        lateness_p99_ms=lambda: late_ms,
    )


@pytest.mark.parametrize(
    ("made", "state", "words"),
    [
        (recording(), OK, ["2,000 of 2,000 delivered", "median 5.0 ms", "p99 9.9 ms", "sent 0.1 ms late"]),
        (recording(delivered=1999, verdict="lossy"), FAULT, ["1,999 of 2,000 delivered"]),
        (recording(verdict="inconclusive"), FAULT, ["2,000 of 2,000"]),
        (recording(late_ms=SATURATED_MS * 1.01), WARNING, ["sent 5.0 ms late", "too busy"]),
        (recording(delivered=0, verdict="lossy", late_ms=float("inf")), FAULT, ["0 of 2,000"]),
    ],
)
def test_a_trial_has_to_deliver_everything_and_to_be_on_time(made, state, words):
    found = findings.trial(made)
    assert (found.name, found.state) == ("sse", state)
    for word in words:
        assert word in f"{found}"


class TestVerdict:
    FINE = Finding("a", OK, "b")

    def test_ready(self):
        assert verdict([self.FINE]) == "This machine is ready."
        assert verdict([self.FINE], quick=True).startswith("This machine looks ready; without --quick")

    def test_ready_with_warnings(self):
        said = verdict([self.FINE, Finding("c", WARNING, "d")])
        assert said.startswith("This machine is ready; the warnings above")

    @pytest.mark.parametrize(("count", "words"), [(1, "the fault above"), (2, "the 2 faults above")])
    def test_not_ready(self, count, words):
        said = verdict([self.FINE, Finding("c", WARNING, "d"), *[Finding("e", FAULT, "f")] * count])
        assert said.startswith("This machine is not ready")
        assert words in said


def test_a_finding_is_a_line_in_columns_and_the_fix_stands_below_what_was_found():
    line, fix = str(Finding("open files", WARNING, "few", "raise it")).split("\n")
    assert line.index("few") == fix.index("->")
    assert str(Finding("curl", OK, "here")).index("here") == line.index("few")
    assert fix.endswith("-> raise it")
