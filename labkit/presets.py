"""Settings: what a comparison is asked for, and the call that asks for just that. With a few ready ones. Pure data."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple

from labkit.plan import OUT_OF_THE_BOX
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee, Timings
from labkit.workload import Workload

BRISK = Timings(heartbeat=0.5)
"""Idle phases take a multiple of the heartbeat; who clicks waits."""


@dataclass(frozen=True)
class Setting:
    """What one comparison is asked for. outage: a kind, which then comes after a third of the load, or None."""

    workload: Workload = field(default_factory=Workload)
    protocols: tuple[str, ...] = tuple(PROTOCOLS)
    guarantees: tuple[Guarantee, ...] = OUT_OF_THE_BOX
    outage: str | None = "reset"
    timings: Timings = BRISK

    def arguments(self) -> dict[str, Any]:
        """The arguments of `lab.compare` that ask for it."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def call(self) -> str:
        """The same as source, to paste into a cell; what is the default anyhow is left out."""
        given = [_source("lab.Workload", self.workload)]
        given += [f"protocols={list(self.protocols)!r}"] * (self.protocols != tuple(PROTOCOLS))
        given += [f"guarantees={list(map(str, self.guarantees))!r}"] * (self.guarantees != OUT_OF_THE_BOX)
        given += [f"outage={self.outage!r}"] * (self.outage != "reset")
        given += [f"timings={_source('lab.Timings', self.timings)}"] * (self.timings != Timings())
        lines = "".join(f"    {argument},\n" for argument in given)
        return f"run = lab.compare(\n{lines})"


def _source(name: str, value: Any) -> str:
    return f"{name}({', '.join(_changed(value))})"


def _changed(value: Any) -> Iterator[str]:
    """The fields of a dataclass that do not have their default."""
    for item in fields(value):
        default = item.default if item.default is not MISSING else None
        if (now := getattr(value, item.name)) != default:
            yield f"{item.name}={now!r}"


class Preset(NamedTuple):
    """A setting under a name, and in a sentence what it stands for."""

    says: str
    setting: Setting


PRESETS = {
    "Quick look": Preset(
        "All protocols under a short load, each cut off once. A look, not a measurement.",
        Setting(Workload(duration=0.5)),
    ),
    "Chat": Preset(
        "Short messages at random times to fifty people, whose phones lose the network without a word.",
        Setting(
            Workload(rate=20, duration=3, size=200, subscribers=50, arrival="poisson"),
            ("websocket", "pubsub", "sse", "polling", "longpolling"),
            outage="silent",
        ),
    ),
    "Stock ticker": Preset(
        "A thousand small prices a second on ten symbols; the gateway closes every connection once.",
        Setting(
            Workload(rate=1000, duration=2, size=160, subscribers=20, topics=10),
            ("websocket", "pubsub", "sse", "polling"),
            outage="close",
        ),
    ),
    "CI push hooks": Preset(
        "Pushes in bursts to the servers of five teams, which are killed and started again.",
        Setting(
            Workload(rate=40, duration=3, size=4000, subscribers=5, arrival="bursty"),
            ("webhook", "resthooks", "polling", "longpolling"),
            outage="consumer-crash",
        ),
    ),
    "Sensor fleet": Preset(
        "A hundred devices report at random times, each to a listener of its own; the network fails inside a message.",
        Setting(
            Workload(rate=400, duration=3, size=150, subscribers=100, topics=100, arrival="poisson"),
            ("websocket", "webhook", "pubsub", "sse", "polling"),
            outage="midmessage",
        ),
    ),
}
"""What the dashboard offers to begin with; the first is the default."""
