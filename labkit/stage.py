"""The stage of one trial: which nodes there are, who listens where, who reaches whom, and how one is replaced."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit.broker import DEFAULT_SYNC
from labkit.ledger import Kind
from labkit.protocols import find
from labkit.station import Node, Station
from labkit.trial import Trial

CONSUMERS = ("consumer", "spared")
"""The subscribers that an outage spares have a process, and a way through the link, of their own."""


class Stage:
    """The nodes of a trial, wired. Ledgers are named after the role; those of later processes are numbered.

    origin: the one web origin whose pages the producer lets connect. hosted: whether the subscribers are the lab's own;
    where they are not, they dial `peers["consumer"]`.
    """

    def __init__(
        self,
        station: Station,
        trial: Trial,
        folder: Path,
        tapped: bool = False,
        origin: str | None = None,
        hosted: bool = True,
    ) -> None:
        self._station, self._trial, self._folder, self._tapped = station, trial, folder, tapped
        self._origin = origin
        self._row = find(trial.protocol)
        self._external = os.environ.get("LABKIT_NATS")
        self._brokered = self._row.brokered or trial.durable
        everybody, struck = trial.workload.subscribers, trial.struck
        self._hosts = {"consumer": (0, struck), "spared": (struck, everybody)}
        roles = ["broker"] * (self._brokered and not self._external) + ["link"] * trial.linked
        roles += ["consumer"] * hosted + ["spared"] * (struck < everybody) + ["producer"]
        self.nodes = {role: station.node(role) for role in roles}
        self._broker: str | None = None
        self._ledgers: dict[str, list[Path]] = {role: [] for role in roles}
        self._urls: dict[str, str | None] = {}
        self._ways: dict[str, str | None] = {}
        self.peers: dict[str, str | None] = {}

    @property
    def consumers(self) -> dict[str, Node]:
        """The nodes that host subscribers."""
        return {role: self.nodes[role] for role in CONSUMERS if role in self.nodes}

    def _ledger(self, role: str) -> str:
        mine = self._ledgers[role]
        mine.append(self._folder / (f"{role}-{len(mine) + 1}.ledger" if mine else f"{role}.ledger"))
        return str(mine[-1])

    def set_up(self) -> str:
        """Opens everything, so that both parties can connect; returns the digest of what the producer will offer."""
        trial, nodes = self._trial, self.nodes
        self._broker = self._external if self._brokered else None
        if "broker" in nodes:
            self._broker = self._own(nodes["broker"].ask("open", sync="always" if trial.durable else DEFAULT_SYNC))
        nodes["producer"].tell("open", **self._producer_spec())
        for role, node in self.consumers.items():
            node.tell("open", **self._consumer_spec(role))
        produced = nodes["producer"].answer()
        self._urls = {"producer": produced["url"], **{r: node.answer()["url"] for r, node in self.consumers.items()}}
        if trial.linked:
            ways = {"conditions": asdict(trial.conditions), "seed": trial.workload.seed, "tapped": self._tapped}
            nodes["link"].ask("open", ledger=self._ledger("link"), **ways)
        target = self._broker if self._row.brokered else self._urls["producer"]
        for role in self.consumers or CONSUMERS[:1]:
            self.peers[role] = self._through_link(target, role, consumer_dials=True)
            self._ways[role] = self._through_link(self._urls.get(role), role, consumer_dials=False)
        return str(produced["digest"])

    def _own(self, opened: dict[str, Any]) -> str:
        self.nodes["broker"].owned = opened["pid"]
        return str(opened["url"])

    def _producer_spec(self) -> dict[str, Any]:
        log = None if self._row.brokered or not self._trial.durable else self._broker
        return {
            "spec": self._trial.to_json(),
            "ledger": self._ledger("producer"),
            "broker": log,
            "origin": self._origin,
        }

    def _consumer_spec(self, role: str) -> dict[str, Any]:
        return {"spec": self._trial.to_json(), "ledger": self._ledger(role), "hosts": self._hosts[role]}

    def _through_link(self, url: str | None, role: str, consumer_dials: bool) -> str | None:
        if url is None or not self._trial.linked:
            return url
        way = {"target": url, "consumer_dials": consumer_dials, "spared": role == "spared"}
        return str(self.nodes["link"].ask("route", **way))

    def connect(self) -> None:
        """Connects both parties."""
        self._connect_producer()
        for role in self.consumers:
            self._connect_consumer(role)

    def _connect_producer(self) -> None:
        peer = self._broker if self._row.brokered else self._ways["consumer"]
        self.nodes["producer"].ask("connect", peer=peer, spared=self._ways.get("spared"))

    def _connect_consumer(self, role: str) -> None:
        self.nodes[role].ask("connect", peer=self.peers[role], public=self._ways[role])

    def prepare(self, role: str) -> None:
        """Has a process ready that can take the place of a role's."""
        self._station.prepare(role)

    def kill(self, role: str) -> None:
        """Kills a role's process."""
        self.nodes[role].kill()

    def replace(self, role: str, start_ns: int) -> None:
        """A new process takes the place of a consumer or producer that was killed; the outage is over when it is up."""
        predecessors = [str(path) for path in self._ledgers[role]]
        node = self.nodes[role] = self._station.replace(role)
        if role == "producer":
            opened = node.ask("open", **self._producer_spec(), since_ns=start_ns)
        else:
            opened = node.ask("open", **self._consumer_spec(role), predecessors=predecessors)
        old, self._urls[role] = self._urls[role], opened["url"]
        if old:
            self.nodes["link"].ask("retarget", old=old, new=opened["url"])
        self.note(Kind.HEALED)
        if role == "producer":
            self._connect_producer()
        else:
            self._connect_consumer(role)
        node.ask("load", start_ns=start_ns)

    def kill_broker(self) -> None:
        """Kills the lab's own broker."""
        self.nodes["broker"].ask("kill")

    def replace_broker(self) -> None:
        """A new broker opens the store of the one that was killed."""
        self._own(self.nodes["broker"].ask("restart"))
        self.note(Kind.HEALED)

    def note(self, kind: Kind) -> None:
        """Has the begin or the end of an outage written down."""
        self.nodes["link"].ask("note", kind=kind)

    def close(self) -> dict[str, Any]:
        """Ends the trial in the nodes; returns what each used."""
        return {
            role: self.nodes[role].ask("close")
            for role in (*self.consumers, "producer", "link", "broker")
            if role in self.nodes
        }
