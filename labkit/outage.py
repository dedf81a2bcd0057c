"""Outages: when, how long and in which way the link breaks. Pure data; no protocol knows of them."""

from dataclasses import asdict, dataclass
from typing import Any

from labkit.errors import UsageError

OUTAGES: dict[str, str] = {
    "reset": "every connection ends with a TCP RST, new ones likewise until the link heals",
    "close": "every connection ends with a TCP FIN, new ones likewise until the link heals",
    "silent": "connections stay open but carry nothing in either direction, and nobody is told",
}


@dataclass(frozen=True)
class Outage:
    """One cut of the link: `kind` (a row of OUTAGES), `at` and `lasts` in seconds after the start of the load."""

    kind: str = "reset"
    at: float = 1.0
    lasts: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in OUTAGES:
            raise UsageError(f"The outage kind is {self.kind!r}; choose one of {', '.join(OUTAGES)}.")
        if not _number(self.at) or not 0 <= self.at < float("inf"):
            raise UsageError(f"The outage begins at {self.at!r} s; it has to begin at 0 s or later.")
        if not _number(self.lasts) or not 0 < self.lasts <= 600:
            raise UsageError(f"The outage lasts {self.lasts!r} s; it has to last more than 0 s and at most 600 s.")

    def check_within(self, duration: float) -> None:
        """UsageError unless it ends before a load of that duration does."""
        end = self.at + self.lasts
        if end >= duration:
            raise UsageError(
                f"The outage ends {end:g} s into a load of {duration:g} s, so nothing could show the recovery; "
                f"end it earlier, or let the load last longer than {end:g} s."
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; `Outage(**fields)` is the way back."""
        return asdict(self)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
