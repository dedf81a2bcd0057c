"""The table of protocols. Each row's module holds its wire format, its producer and its consumer."""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from labkit.errors import UsageError
from labkit.trial import Guarantee

if TYPE_CHECKING:
    from labkit.protocols.base import Consumer, Producer


class Protocol(NamedTuple):
    """One row. `producer_serves`, `consumer_serves`, `brokered`: who listens for whose connections.

    `set_up_s`: how long after connecting the protocol goes on setting up by itself. `too_slow`: the policy for a
    subscriber that does not keep up. `latest_only`: at-most-once gives the newest event, and the ones before it are
    superseded. `reorders`: the guarantees with which an event may come after what followed it; with all others each
    subscription's order is kept. `repeats`: those with which the application may see an event twice.
    `held`: a request waits, so that what happens while nothing happens takes as long as a request is held.
    """

    title: str
    module: str
    prefix: str
    standard: str
    producer_serves: bool
    consumer_serves: bool
    brokered: bool = False
    too_slow: str = ""
    set_up_s: float = 0.0
    latest_only: bool = False
    reorders: tuple[Guarantee, ...] = ()
    repeats: tuple[Guarantee, ...] = ()
    baseline: bool = False
    held: bool = False

    def producer(self) -> "type[Producer]":
        """The producer's class; loads the protocol's library."""
        found: type[Producer] = getattr(import_module(f"labkit.protocols.{self.module}"), self.prefix + "Producer")
        return found

    def consumer(self) -> "type[Consumer]":
        """The consumer's class; loads the protocol's library."""
        found: type[Consumer] = getattr(import_module(f"labkit.protocols.{self.module}"), self.prefix + "Consumer")
        return found


RECOVERING = (Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE)
CUT_OFF = "disconnected with 8 MiB unsent"
REJECTED = "rejected with 10,000 deliveries queued"
PULLS = "asks for no more than it can take; what the log evicts meanwhile is a gap"

PROTOCOLS = {
    "websocket": Protocol("WebSocket", "websocket", "WebSocket", "RFC 6455", True, False, too_slow=CUT_OFF),
    # A POST that was given up when it took too long may arrive after all, late; with recovery on it is tried again, and
    # the next one waits until it has ended.
    "webhook": Protocol(
        "Webhook",
        "webhook",
        "Webhook",
        "Standard Webhooks 1.0",
        False,
        True,
        too_slow=REJECTED,
        reorders=(Guarantee.AT_MOST_ONCE,),
    ),
    # Besides, reconciliation may overtake a delivery that is still being retried.
    "resthooks": Protocol(
        "REST Hooks",
        "resthooks",
        "RestHooks",
        "resthooks.org patterns",
        True,
        True,
        too_slow=REJECTED,
        reorders=tuple(Guarantee),
    ),
    # nats-server measures each client's round trip with a PING, 2.0 to 2.4 s after it connected. What is redelivered,
    # because its acknowledgement got lost, comes again, and after what followed it.
    "pubsub": Protocol(
        "Pub-Sub",
        "pubsub",
        "PubSub",
        "NATS client protocol, JetStream",
        False,
        False,
        brokered=True,
        too_slow=CUT_OFF + " by the broker",
        set_up_s=2.5,
        reorders=RECOVERING,
        repeats=RECOVERING,
    ),
    "sse": Protocol("Server-Sent Events", "sse", "Sse", "WHATWG HTML 9.2", True, False, too_slow=CUT_OFF),
    "polling": Protocol(
        "Polling", "polling", "Polling", "RFC 9110 (ETag)", True, False, too_slow=PULLS, latest_only=True, baseline=True
    ),
    "longpolling": Protocol(
        "Long polling",
        "polling",
        "LongPolling",
        "RFC 6202, RFC 7240 (Prefer: wait)",
        True,
        False,
        too_slow=PULLS,
        latest_only=True,
        baseline=True,
        held=True,
    ),
}
"""All protocols, in the order in which every table and chart shows them."""


def find(name: str) -> Protocol:
    """The row of that name; UsageError names the ones there are."""
    if name not in list(PROTOCOLS):  # what is no text, and has no hash, is none of them either
        raise UsageError(f"There is no protocol {name!r}; choose from {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
