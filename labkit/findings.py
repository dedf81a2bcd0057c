"""Findings: what was looked at on a machine, how it is, what was found, and the fix where something is wrong.

Pure: facts in, findings out. A fault stops a workshop; a warning names one thing that may be missing or look odd.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from labkit.recording import Recording

SUBSCRIBERS, EACH, BESIDES = 2000, 2, 100
"""Subscribers that a machine should take; files that the link opens for each, and that a process has besides."""

ROOM, LITTLE_ROOM = 1e9, 1e8
"""Bytes on disk that all notebooks together may take, and that one run may take."""

STEP_MS, SLEEP_MS = 0.1, 2.0
"""A clock with longer steps, or a sleep of 1 ms that ends so much too late, shows in every latency."""


class State(StrEnum):
    """A fault stops the workshop; with a warning, something may be missing or look odd."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Finding(NamedTuple):
    """One answer: what was looked at, how it is, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state:8} {self.name:12} {self.found}" + (f"\n{'':21} -> {self.fix}" if self.fix else "")


def python(running: str, wanted: str) -> Finding:
    """`wanted` is a version specifier such as `>=3.11`."""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(running, prereleases=True):
        return Finding("Python", State.OK, running)
    return Finding("Python", State.FAULT, f"{running}; the lab needs {wanted}", "install a newer Python")


def packages(requirements: Iterable[str], installed: Callable[[str], str | None]) -> list[Finding]:
    """One finding when all is well, or one for each package that is missing or too old.

    requirements: as in package metadata (PEP 508). installed: a package's version, None where it is not there.
    """
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in requirements]
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = []
    for one in needed:
        found = installed(one.name)
        if found is None or not one.specifier.contains(found, prereleases=True):
            said = f"{one.name} is {found or 'missing'}; the lab needs {one.specifier}"
            fix = f'python -m pip install --upgrade "{one.name}{one.specifier}"'
            wrong.append(Finding("packages", State.FAULT, said, fix))
    return wrong or [Finding("packages", State.OK, f"all {len(needed)} are there and new enough")]


def sockets(error: str | None) -> Finding:
    """`error` is what went wrong when a server and a client were to meet on 127.0.0.1."""
    if error is None:
        return Finding("sockets", State.OK, "a server and a client met on 127.0.0.1")
    fix = "let Python take and make connections on 127.0.0.1 in this machine's firewall or security program"
    return Finding("sockets", State.FAULT, f"no connection on 127.0.0.1 ({error})", fix)


def proxy(proxies: Mapping[str, str], bypassed: bool) -> Finding:
    """proxies: by URL scheme. bypassed: whether 127.0.0.1 is excepted from them."""
    if bypassed or not (caught := sorted({"http", "all"} & set(proxies))):
        return Finding("proxy", State.OK, "none in the way of 127.0.0.1")
    found = f"the setting for {' and '.join(caught)} catches 127.0.0.1 too: curl and the browser would ask the proxy"
    return Finding("proxy", State.WARNING, found, "set NO_PROXY and no_proxy to 127.0.0.1,localhost")


def files(limits: tuple[float, float] | None) -> Finding:
    """limits: of open files, soft and hard; None where the system has none."""
    if limits is None:
        return Finding("open files", State.OK, "this system has no such limit")
    soft, hard = limits
    needed = EACH * SUBSCRIBERS + BESIDES
    if hard >= needed:
        raised = "" if soft >= needed else ", which the lab raises by itself"
        return Finding("open files", State.OK, f"{soft:,.0f}{raised}")
    room = max(0, int(hard - BESIDES) // EACH)
    found = (
        f"{hard:,.0f} at most, enough for {room:,} subscribers; trials of sweeps and claims that have more will fail"
    )
    fix = "as administrator raise this user's hard limit (nofile) to 8192, log in again, then: ulimit -n 8192"
    return Finding("open files", State.WARNING, found, fix)


def clock(step_ms: float, late_ms: float) -> Finding:
    """step_ms: the smallest step seen. late_ms: by how much a sleep of 1 ms was too long, in the median."""
    found = f"steps of {step_ms * 1000:.2g} µs; a sleep of 1 ms ends {late_ms:.2g} ms late"
    if step_ms > STEP_MS:
        return Finding("clock", State.WARNING, found, "on Windows, use Python 3.13 or newer: its clock is finer")
    if late_ms > SLEEP_MS:
        return Finding("clock", State.WARNING, found, "plug in the charger, switch battery saver off, close programs")
    return Finding("clock", State.OK, found)


def program(name: str, path: str | None, use: str, fix: str) -> Finding:
    """A program that only some exercises need; `use` says which."""
    return Finding(name, State.OK, path) if path else Finding(name, State.WARNING, f"none found; {use}", fix)


def disk(free: float, folder: str) -> Finding:
    """free: bytes left where temporary run folders go."""
    found = f"{free / 1e9:,.1f} GB free in {folder}"
    state = State.OK if free >= ROOM else State.WARNING if free >= LITTLE_ROOM else State.FAULT
    return Finding("disk", state, found, "" if state is State.OK else "make room, or point TMPDIR to a larger disk")


def trial(recording: "Recording") -> Finding:
    """A trial with recovery on and without an outage: everything owed has to arrive."""
    from labkit.figures import SATURATED_MS, percentile

    outcome, ordered, late = recording.outcome, recording.latencies_ms(), recording.lateness_p99_ms()
    name, figures = recording.trial.protocol, [f"{outcome.delivered:,} of {outcome.owed.sum():,} delivered"]
    for label, share in (("median", 0.5), ("p99", 0.99)):
        if (value := percentile(ordered, share)) is not None:
            figures.append(f"{label} {value:.1f} ms")
    found = ", ".join([*figures, f"sent {late:.1f} ms late"])
    if outcome.verdict != "complete":
        return Finding(name, State.FAULT, found, "close other programs, try again; then look at the security program")
    if late > SATURATED_MS:
        return Finding(name, State.WARNING, found, "this machine is too busy to be timed: close other programs")
    return Finding(name, State.OK, found)


def verdict(findings: Iterable[Finding], quick: bool = False) -> str:
    """The one sentence at the end."""
    states = [finding.state for finding in findings]
    if faults := states.count(State.FAULT):
        which = "the fault" if faults == 1 else f"the {faults} faults"
        return f"This machine is not ready: mend {which} above, then run `labkit doctor` again."
    ready = (
        "This machine looks ready; without --quick, each protocol is tried too" if quick else "This machine is ready"
    )
    return ready + ("; the warnings above name what may be missing or look odd." if State.WARNING in states else ".")
