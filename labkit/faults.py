"""Faults: how each kind of outage is brought about, and ended, on a stage. The counterpart of the table OUTAGES."""

from labkit.ledger import Kind
from labkit.outage import OUTAGES, Outage, Strikes
from labkit.stage import Stage


class Fault:
    """One kind of outage on one stage. `cut` and `heal` may follow each other as often as one likes."""

    def __init__(self, stage: Stage, outage: Outage, start_ns: int) -> None:
        self._stage, self._kind, self._start_ns = stage, outage.kind, start_ns

    def prepare(self) -> None:
        """Gets ready what `heal` will need."""

    def cut(self) -> None:
        """Begins the outage."""
        self._stage.nodes["link"].ask("cut", kind=self._kind)

    def heal(self) -> None:
        """Ends it."""
        self._stage.nodes["link"].ask("heal")


class Freeze(Fault):
    """SIGSTOP and SIGCONT. The link's node does it: it sees to the end of the process, should this one be killed."""

    def cut(self) -> None:
        self._stage.nodes["link"].ask("freeze", pid=self._stage.nodes["consumer"].pid)

    def heal(self) -> None:
        self._stage.nodes["link"].ask("thaw")


class Crash(Fault):
    """SIGKILL of a party; another process, which has been waiting for this, takes its place."""

    @property
    def _role(self) -> str:
        return str(OUTAGES[self._kind].strikes)

    def prepare(self) -> None:
        self._stage.prepare(self._role)

    def cut(self) -> None:
        self._stage.note(Kind.CUT)
        self._stage.kill(self._role)

    def heal(self) -> None:
        self._stage.replace(self._role, self._start_ns)


class BrokerCrash(Fault):
    """SIGKILL of the broker; a new one opens its store."""

    def cut(self) -> None:
        self._stage.note(Kind.CUT)
        self._stage.kill_broker()

    def heal(self) -> None:
        self._stage.replace_broker()


FAULTS: dict[str, type[Fault]] = {
    **{kind: Fault for kind, row in OUTAGES.items() if row.strikes is Strikes.LINK},
    "consumer-crash": Crash,
    "consumer-freeze": Freeze,
    "producer-crash": Crash,
    "broker-crash": BrokerCrash,
}
