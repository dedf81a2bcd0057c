"""A live trial: it runs until it is stopped, and whoever holds it cuts, freezes and heals the link meanwhile.

Stopped, it is an ordinary run of one trial, audited like any other. It draws nothing, and nothing of it outlives its
`close`, a failure, or its own process.
"""

import json
import math
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from labkit import broker, disk, manifest
from labkit.audit import Offer, Records, audit
from labkit.errors import TrialError, UsageError, shown
from labkit.faults import FAULTS, Fault
from labkit.ledger import Kind, Retold, Tail, are
from labkit.outage import OUTAGES, Outage, Strikes
from labkit.plan import Plan
from labkit.protocols import PROTOCOLS, find
from labkit.recording import PHASES, Recording, ledgers_of, offer_of, terms_of
from labkit.results import Run
from labkit.runner import LOGS, prepare
from labkit.station import Station
from labkit.trial import Guarantee, Measure, Timings, Trial
from labkit.walk import Walk
from labkit.workload import MAX_DURATION, Workload, digest

WORKLOAD = Workload(rate=10, duration=MAX_DURATION, size=256, subscribers=3)
TIMINGS = Timings(heartbeat=0.5, poll=0.25, retry_limit=0.5, attempts=120)
"""Quick enough to watch. A delivery is tried for about a minute, as long as somebody may leave the link cut."""

SHORTEST, LONGEST_OUTAGE = 0.1, 600.0
"""Seconds that a workload lasts at the least, and that the outage of a spec lasts at the most."""

ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s*?#]+|null")
"""Scheme, host and port, or what a page says that has none (RFC 6454 section 7.1)."""

OUTSIDE = [name for name, row in PROTOCOLS.items() if row.producer_serves and not row.consumer_serves]
"""Protocols whose consumers need no more than a URL, and so may be somebody else's, such as a page's."""


class Endless:
    """One live trial, used by one thread at a time; a context manager.

    workload: constant arrivals; its duration is the most that it may last. hosted: the subscribers are the lab's own;
    where they are not, they connect to `url`, and whoever drives them writes `ledger`, which `stop` and `close` close.
    origin: the one web origin whose pages may connect. out: the run folder, new or empty; a temporary one when left
    out. `trial` is the spec, `broken` the kind of the outage at present. UsageError for what cannot be.
    """

    def __init__(
        self,
        protocol: str,
        guarantee: Guarantee | str = Guarantee.AT_LEAST_ONCE,
        workload: Workload | None = None,
        timings: Timings | None = None,
        hosted: bool = True,
        origin: str | None = None,
        out: Path | str | None = None,
    ) -> None:
        find(protocol)
        for name, given, kind in (("workload", workload, Workload), ("timings", timings, Timings)):
            if not isinstance(given, kind | None):
                raise UsageError(f"{name} is {shown(given)}; it has to be a labkit {kind.__name__}, or left out.")
        if not isinstance(out, str | Path | None):
            raise UsageError(f"out is {shown(out)}; it has to be the path of a folder, or left out.")
        if origin is not None and not (isinstance(origin, str) and ORIGIN.fullmatch(origin)):
            raise UsageError(f"origin is {shown(origin)}; name one web origin, such as 'http://localhost:8888'.")
        load, chosen = workload or WORKLOAD, Guarantee.named(guarantee)
        if load.trace or load.arrival != "constant":
            raise UsageError("A live trial has constant arrivals; leave the arrival and the trace out.")
        if not hosted and protocol not in OUTSIDE:
            raise UsageError(f"{protocol} has no consumers outside the lab; choose from {', '.join(OUTSIDE)}.")
        trial = Trial(f"loss-{protocol}-{chosen}-1", Measure.LOSS, protocol, chosen, load)
        self.trial = replace(trial, uid=secrets.token_hex(4), timings=timings or TIMINGS)
        self.broken: str | None = None
        self.ledger: Retold | None = None
        self.url = ""
        self._hosted, self._origin, self._out = hosted, origin, out
        self._stop = threading.Event()
        self._station: Station | None = None
        self._folder: Path | None = None
        self._tails: dict[Path, Tail] = {}
        self._fault: Fault | None = None
        self._kinds: list[str] = []
        self._cut_ns = 0
        self._healed_ns: int | None = None

    def start(self) -> None:
        """Opens and connects everything, and begins the load where the subscribers are the lab's own."""
        if self._folder or self._stop.is_set():
            raise UsageError("This live trial was started or closed already; make another one.")
        if find(self.trial.protocol).brokered or self.trial.durable:
            broker.external(streams=self.trial.recovers)
        folder = Path(tempfile.mkdtemp(prefix="labkit-") if self._out is None else self._out)
        prepare(folder)
        self._folder, self._place = folder, folder / "trials" / f".{self.trial.name}"
        with self._or_close():
            self._place.mkdir(parents=True)
            self._station = Station("endless", folder / LOGS, self._stop)
            way: dict[str, Any] = {"origin": self._origin, "outside": None if self._hosted else self._outside}
            self._walk = Walk(self._station, self.trial, self._place, self._stop, nullcontext(), **way)
            self.ledger = None if self._hosted else Retold(self._place / "consumer.ledger")
            schedule = self.trial.workload.schedule()  # while the nodes come up
            self._offer = offer_of(self.trial.workload, schedule)
            self._walk.set_up()
            if self._walk.digest != digest(schedule):
                raise TrialError("The producer offers another workload than the trial's.")
            self._walk.connect()
            self.url = self._walk.stage.peers["consumer"] or ""
            if self._hosted:
                self._walk.begin()

    def begin(self) -> None:
        """Begins the load for subscribers from outside, who are connected by now."""
        self._check(begun=False)
        with self._or_close():
            self._walk.begin()

    def cut(self, kind: str = "reset") -> None:
        """Breaks the link, or the lab's own consumer, in one of the ways of OUTAGES."""
        self._check()
        outage, can = Outage(kind), (Strikes.LINK, Strikes.CONSUMER) if self._hosted else (Strikes.LINK,)
        if outage.strikes not in can:
            raise UsageError(f"{kind} strikes the {outage.strikes}; here it has to be the {' or the '.join(can)}.")
        if self.broken:
            raise UsageError(f"It is broken already ({self.broken}); heal it first.")
        with self._or_close():
            self._fault = FAULTS[kind](self._walk.stage, outage, self._walk.phases["load"])
            self._fault.prepare()
            self._fault.cut()
            self.broken, self._cut_ns = kind, self._cut_ns or time.monotonic_ns()
            self._kinds.append(kind)

    def freeze(self) -> None:
        """The link stays up and carries nothing: the kind `silent`."""
        self.cut("silent")

    def heal(self) -> None:
        """Ends the outage."""
        self._check()
        if not self._fault:
            raise UsageError("Nothing is broken, so there is nothing to heal; cut or freeze it first.")
        with self._or_close():
            self._fault.heal()
            self.broken = self._fault = None
            self._healed_ns = self._healed_ns or time.monotonic_ns()

    def look(self) -> Recording:
        """What the ledgers say up to now, audited: what was offered by now counts, arrived or not.

        TrialError when a process has failed.
        """
        self._check()
        with self._or_close():
            if not self.broken or OUTAGES[self.broken].strikes is Strikes.LINK:
                self._walk.look()
            # In this order: no arrival of an event that was not offered yet, none after an outage without its end.
            link, consumer, producer = (self._read(role) for role in ("link", "consumer", "producer"))
            phases = dict.fromkeys(PHASES, time.monotonic_ns()) | self._walk.phases
            count, whole = self._offered(producer), self._offer
            due, size, crc = whole.due_ns[:count] + phases["load"], whole.size[:count], whole.crc[:count]
            offer, trial = Offer(whole.first, due, size, crc, whole.wanted[:, :count]), self._spec(count)
            outcome = audit(offer, producer, consumer, link, drained=False, terms=terms_of(trial))
            return Recording(trial, phases, {"kinds": [*self._kinds]}, offer, outcome, link, producer, consumer)

    @property
    def over(self) -> bool:
        """Whether all that there is has been offered."""
        self._check()
        return self._offered(self._read("producer")) == len(self._offer.due_ns)

    def stop(self) -> Run:
        """Heals what is broken, ends the load, settles and audits; returns the run."""
        self._check()
        with self._or_close():
            if self.broken:
                self.heal()
            least = math.ceil(SHORTEST * self.trial.workload.rate)
            self._walk.stage.nodes["producer"].ask("halt", least=least)
            self._walk.end()
            record = self._walk.finish()
            spec = self._spec(self._offered(self._read("producer")))
            self._end()
            return self._saved(spec, record)

    def close(self) -> None:
        """Ends every process and file; what was not stopped leaves no folder either."""
        self._end()
        if self._folder and self._place.name.startswith("."):
            if self._folder.exists():
                shutil.rmtree(self._folder)
            self._place = self._folder

    def __enter__(self) -> "Endless":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        self._stop.set()
        if self._station:
            self._station.close()
            self._station = None
        if self.ledger:
            self.ledger.close()

    @contextmanager
    def _or_close(self) -> Iterator[None]:
        """What fails, or is interrupted, leaves nothing running."""
        try:
            yield
        except OSError as error:
            deleted = self._folder is not None and not self._place.parent.exists()
            self.close()
            why = f"its run folder {str(self._folder)!r} was deleted" if deleted else str(error)
            raise TrialError(f"The live trial cannot go on: {why}.") from error
        except BaseException:
            self.close()
            raise

    def _check(self, begun: bool = True) -> None:
        """UsageError unless it runs, and the load has begun or is about to."""
        if not self._station:
            raise UsageError(f"This live trial {'has ended; make another one' if self._folder else 'is not started'}.")
        if ("load" in self._walk.phases) is not begun:
            raise UsageError(f"The load of this live trial has {'not begun: call begin()' if begun else 'begun'}.")

    def _read(self, role: str) -> Records:
        """What all processes of a role have written so far."""
        there = [path.name for path in self._place.glob("*.ledger")]
        paths = [self._place / name for name in ledgers_of(there, self.trial, role)]
        tails = [self._tails.setdefault(path, Tail(path)) for path in paths]
        return np.concatenate([tail.read() for tail in tails])

    def _offered(self, producer: Records) -> int:
        """How many events the producer has sent."""
        sent = producer["sequence"][are(producer, Kind.SENT)]
        return max(0, int(sent.max(initial=0)) - self._offer.first + 1)

    def _spec(self, count: int) -> Trial:
        """The spec of the trial with so many events. Of several outages it names the first; the record has them all."""
        load, outage = self.trial.workload, None
        if self._kinds:
            kind, cut = self._kinds[0], self._cut_ns
            at, lasts = cut - self._walk.phases["load"], (self._healed_ns or time.monotonic_ns()) - cut
            outage = Outage(kind, max(0.0, round(at / 1e9, 3)), min(round(lasts / 1e9, 3) + 0.001, LONGEST_OUTAGE))
        duration = min(max(count / load.rate, SHORTEST), load.duration)
        return replace(self.trial, workload=replace(load, duration=duration), outage=outage)

    def _saved(self, spec: Trial, record: dict[str, Any]) -> Run:
        """Makes the folder that of an ordinary run."""
        assert self._folder
        offered, done = digest(spec.workload.schedule()), datetime.now(UTC).isoformat()
        spec.save(self._place / "spec.json")
        (self._place / "record.json").write_text(
            json.dumps(record | {"digest": offered, "kinds": self._kinds}, indent=1)
        )
        disk.seal(self._place)
        self._place = self._place.rename(self._place.with_name(spec.name))
        if not any((self._folder / LOGS).iterdir()):
            (self._folder / LOGS).rmdir()
        outages = (spec.outage,) if spec.outage else ()
        plan = Plan(spec.workload, (spec.protocol,), (spec.guarantee,), (spec.measure,), outages, 1, spec.timings)
        about = manifest.made(plan, offered, []) | {"trials": {spec.name: {"digest": offered}}, "finished": done}
        manifest.write(self._folder, about)
        return Run(self._folder)

    def _outside(self, since_ns: int) -> dict[str, Any]:
        """What a consumer's `status` would say of subscribers outside the lab."""
        assert self.ledger
        records = self._read("consumer")
        records = records[are(records, Kind.CONNECTED, Kind.DISCONNECTED)]
        latest = dict(zip(records["subscriber"].tolist(), records["kind"].tolist(), strict=True))
        connected = sum(kind == Kind.CONNECTED for kind in latest.values())
        settled = connected == self.trial.workload.subscribers
        return {"last_arrival_ns": self.ledger.last_arrival_ns, "settled": settled}
