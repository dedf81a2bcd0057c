"""Outages: when, how long, to whom and in which way something breaks. Pure data; no protocol knows of them.

Beside them the conditions of a link that works, but is slow: they are no outage, and last for the whole trial.
"""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, NamedTuple

from labkit.errors import UsageError


class Strikes(StrEnum):
    """What an outage breaks."""

    LINK = "link"
    CONSUMER = "consumer"
    PRODUCER = "producer"
    BROKER = "broker"


class Break(NamedTuple):
    """One way to break: what is struck, what happens in a word or two, and in a sentence."""

    strikes: Strikes
    short: str
    says: str


OUTAGES: dict[str, Break] = {
    "close": Break(Strikes.LINK, "FIN", "every connection ends with a TCP FIN, new ones likewise until the link heals"),
    "reset": Break(Strikes.LINK, "RST", "every connection ends with a TCP RST, new ones likewise until the link heals"),
    "silent": Break(
        Strikes.LINK, "stall", "connections stay open but carry nothing in either direction, and nobody is told"
    ),
    "refuse": Break(Strikes.LINK, "no new ones", "connections that are open live on, new ones are refused"),
    "midmessage": Break(
        Strikes.LINK, "cut in a message", "every connection ends inside the next message that its consumer is sent"
    ),
    "consumer-crash": Break(Strikes.CONSUMER, "SIGKILL", "the consumer's process is killed, a new one takes its place"),
    "consumer-freeze": Break(Strikes.CONSUMER, "SIGSTOP", "the consumer's process is stopped, and goes on later"),
    "producer-crash": Break(
        Strikes.PRODUCER, "SIGKILL", "the producer's process is killed, a new one goes on with what is due by then"
    ),
    "broker-crash": Break(Strikes.BROKER, "SIGKILL", "the broker's process is killed, a new one opens its store"),
}
"""Every kind, from the link outwards."""

LATEST = 1_000_000
MAX_REPEAT = 1000


@dataclass(frozen=True)
class Outage:
    """Something breaks: `kind` (a row of OUTAGES), `at` and `lasts` in seconds after the start of the load.

    share: which part of the subscribers it strikes, the first ones, rounded up. repeat: how often in all; between
    two lies a pause as long as the outage. A crash lasts until its new process is up, however short `lasts` is.
    """

    kind: str = "reset"
    at: float = 1.0
    lasts: float = 0.5
    share: float = 1.0
    repeat: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in OUTAGES:
            raise UsageError(f"The outage kind is {self.kind!r}; choose one of {', '.join(OUTAGES)}.")
        if not _number(self.at) or not 0 <= self.at <= LATEST:
            raise UsageError(f"The outage begins at {self.at!r} s; it has to be a number from 0 to {LATEST:,} s.")
        if not _number(self.lasts) or not 0 < self.lasts <= 600:
            raise UsageError(f"The outage lasts {self.lasts!r} s; it has to be a number above 0 s and at most 600 s.")
        if not _number(self.share) or not 0 < self.share <= 1:
            raise UsageError(
                f"The outage's share is {self.share!r}; it has to be above 0 and at most 1, which is all subscribers."
            )
        if not _number(self.repeat) or not isinstance(self.repeat, Integral) or not 1 <= self.repeat <= MAX_REPEAT:
            raise UsageError(
                f"The outage's repeat is {self.repeat!r}; it has to be a whole number from 1 to {MAX_REPEAT:,}."
            )
        if self.share < 1 and self.strikes in (Strikes.PRODUCER, Strikes.BROKER):
            raise UsageError(
                f"{self.kind} with a share of {self.share:g} cannot be: there is one {self.strikes}, and all "
                "subscribers depend on it; leave the share at 1."
            )
        for name in ("at", "lasts", "share"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "repeat", int(self.repeat))

    @property
    def strikes(self) -> Strikes:
        """What breaks."""
        return OUTAGES[self.kind].strikes

    @property
    def ends(self) -> float:
        """When the last repeat ends, in seconds after the start of the load."""
        return self.at + (2 * self.repeat - 1) * self.lasts

    def windows(self) -> list[tuple[float, float]]:
        """Begin and end of each repeat, in seconds after the start of the load."""
        begins = [self.at + 2 * number * self.lasts for number in range(self.repeat)]
        return [(begin, begin + self.lasts) for begin in begins]

    def struck(self, subscribers: int) -> int:
        """How many subscribers it strikes: those numbered below."""
        return max(1, math.ceil(round(self.share * subscribers, 9)))

    def check_within(self, duration: float) -> None:
        """UsageError unless it ends before a load of that duration does."""
        if self.ends >= duration:
            raise UsageError(
                f"The outage ends {self.ends:g} s into a load of {duration:g} s, so nothing could show the recovery; "
                f"end it earlier, or let the load last longer than {self.ends:g} s."
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; `Outage(**fields)` is the way back."""
        return asdict(self)


@dataclass(frozen=True)
class Conditions:
    """What the link does to traffic while it works, in each direction.

    delay: seconds each byte takes. jitter: up to so many seconds more, drawn anew for each chunk; TCP's order is kept.
    bandwidth: bytes per second, all connections together; 0 for no limit.
    """

    delay: float = 0.0
    jitter: float = 0.0
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        for name in ("delay", "jitter"):
            value = getattr(self, name)
            if not _number(value) or not 0 <= value <= 10:
                raise UsageError(
                    f"The link's {name} is {value!r} s; it has to be from 0 to 10 s, "
                    "which the command line takes in milliseconds."
                )
        if not _number(self.bandwidth) or (self.bandwidth and not 1000 <= self.bandwidth <= 1e12):
            raise UsageError(
                f"The link's bandwidth is {self.bandwidth!r} bytes/s; it has to be at least 1000 bytes/s, which the "
                "command line takes in kilobytes, or 0 for no limit."
            )

        for name in ("delay", "jitter", "bandwidth"):
            object.__setattr__(self, name, float(getattr(self, name)))

    def __bool__(self) -> bool:
        return bool(self.delay or self.jitter or self.bandwidth)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
