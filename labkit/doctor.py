"""The doctor: is this machine ready for a workshop? Gathers the facts and yields one finding after the other.

It mends nothing, leaves nothing behind, and uses no library of the lab before it has found them all installed.
"""

import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from itertools import pairwise
from pathlib import Path

from labkit import broker, findings
from labkit.errors import TrialError, UsageError
from labkit.findings import Finding, State
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee, Measure, Timings
from labkit.workload import Workload

LOAD = Workload(rate=50, duration=5.0, size=256, subscribers=5)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge", "microsoft-edge", "firefox")
PLACES = (
    *("/Applications/Google Chrome.app", "/Applications/Microsoft Edge.app", "/Applications/Firefox.app"),
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
"""Where browsers are that are not on PATH."""


def examine(quick: bool = False) -> Iterator[Finding]:
    """Looks at everything; `quick` leaves out the trials, which take most of the time and show their progress."""
    try:
        packages = findings.packages(requires("labkit") or [], _installed)
        yield findings.python(platform.python_version(), metadata("labkit")["Requires-Python"])
    except ImportError as error:
        packages = [Finding("packages", State.FAULT, str(error), "in the lab's folder: python -m pip install -e .")]
    yield from packages
    yield findings.sockets(_meet())
    yield findings.proxy(urllib.request.getproxies(), bool(urllib.request.proxy_bypass("127.0.0.1")))
    yield findings.files(_limits())
    yield findings.clock(*_clock())
    yield findings.disk(shutil.disk_usage(folder := tempfile.gettempdir()).free, folder)
    found = [*filter(None, map(shutil.which, BROWSERS)), *(place for place in PLACES if Path(place).exists()), None]
    yield findings.program("browser", found[0], "the browser exercises need one", "install Chrome, Edge or Firefox")
    yield findings.program("curl", shutil.which("curl"), "pasted commands need it", "install it from curl.se/download")
    if any(finding.state is State.FAULT for finding in packages):
        yield Finding("protocols", State.WARNING, "not tried", "mend the packages first")
        return
    yield (server := _nats())
    if not quick:
        yield from _trials([name for name, row in PROTOCOLS.items() if server.state is State.OK or not row.brokered])


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _meet() -> str | None:
    """What stops a server and a client from meeting on 127.0.0.1, if anything does."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            server.settimeout(2)
            client.settimeout(2)
            client.connect(server.getsockname())
            with server.accept()[0] as accepted:
                accepted.sendall(b"!")
                return None if client.recv(1) == b"!" else "what was sent did not arrive"
    except OSError as error:
        return str(error)


def _limits() -> tuple[float, float] | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = (
        float("inf") if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return soft, hard


def _clock() -> tuple[float, float]:
    """The smallest step of the clock, and the median by which a sleep of 1 ms is too long, both in ms."""
    reads = [time.monotonic_ns() for _ in range(100_000)]
    steps = [later - earlier for earlier, later in pairwise(reads) if later > earlier]
    late = []
    for _ in range(100):
        began = time.monotonic_ns()
        time.sleep(0.001)
        late.append((time.monotonic_ns() - began) / 1e6 - 1)
    return min(steps, default=time.get_clock_info("monotonic").resolution * 1e9) / 1e6, statistics.median(late)


def _nats() -> Finding:
    """Whether the user's own broker answers, or the lab's can be started."""
    from labkit.station import Station

    try:
        if url := broker.external(streams=True):
            return Finding("nats-server", State.OK, f"yours, at {url}")
        program = broker.find()
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout
        with tempfile.TemporaryDirectory() as folder, Station("doctor", Path(folder), threading.Event()) as station:
            node = station.node("broker")
            node.owned = node.ask("open")["pid"]
            node.ask("close")
    except (TrialError, UsageError, OSError, subprocess.SubprocessError) as error:
        return Finding("nats-server", State.FAULT, "Pub-Sub has no broker", str(error))
    return Finding("nats-server", State.OK, f"{said.strip().removeprefix('nats-server: ')} starts, {program}")


def _trials(protocols: list[str]) -> Iterator[Finding]:
    """Some seconds of load through each protocol, all at once, with recovery on and no outage."""
    from tqdm.auto import tqdm

    from labkit.plan import Plan
    from labkit.results import Run
    from labkit.runner import Runner

    plan = Plan(
        LOAD, tuple(protocols), (Guarantee.AT_LEAST_ONCE,), (Measure.BANDWIDTH,), timings=Timings(heartbeat=0.5)
    )
    with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
        out = Path(folder) / "run"
        with tqdm(total=len(protocols), unit="protocol", desc="trials", leave=False, dynamic_ncols=True) as progress:

            def advance(*_: object) -> None:
                progress.update()

            Runner(plan, out, [], advance, room=len(protocols)).run()
        run = Run(out)
        found = {recording.trial.protocol: findings.trial(recording) for recording in run.recordings}
        errors = {name.split("-")[1]: error for name, error in run.errors.items()}
    for name in protocols:
        yield found.get(name) or Finding(name, State.FAULT, "the trial failed", errors[name])
