"""labkit: event-driven API protocols side by side, with real servers and clients on this machine.

    import labkit as lab
    run = lab.compare(lab.Workload(rate=200, duration=3, size=256, subscribers=10))
    lab.charts.latency(run)

Everything is loaded when it is first used; `import labkit` itself is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit import charts as charts
    from labkit import choice as choice
    from labkit import claims as claims
    from labkit import clients as clients
    from labkit import demos as demos
    from labkit import lessons as lessons
    from labkit.api import compare as compare
    from labkit.api import sweep as sweep
    from labkit.browser import browser_consumer as browser_consumer
    from labkit.collection import Collection as Collection
    from labkit.collection import reference as reference
    from labkit.differences import compare_runs as compare_runs
    from labkit.dissect import anatomy as anatomy
    from labkit.errors import TrialError as TrialError
    from labkit.errors import UsageError as UsageError
    from labkit.outage import Conditions as Conditions
    from labkit.outage import Outage as Outage
    from labkit.panel import playground as playground
    from labkit.results import Run as Run
    from labkit.server import launch as launch
    from labkit.trial import Guarantee as Guarantee
    from labkit.trial import Timings as Timings
    from labkit.widgets import dashboard as dashboard
    from labkit.workload import Workload as Workload

_HOMES = {
    "anatomy": "labkit.dissect",
    "browser_consumer": "labkit.browser",
    "compare": "labkit.api",
    "compare_runs": "labkit.differences",
    "sweep": "labkit.api",
    "Collection": "labkit.collection",
    "reference": "labkit.collection",
    "dashboard": "labkit.widgets",
    "Conditions": "labkit.outage",
    "launch": "labkit.server",
    "Guarantee": "labkit.trial",
    "Outage": "labkit.outage",
    "playground": "labkit.panel",
    "Run": "labkit.results",
    "Timings": "labkit.trial",
    "TrialError": "labkit.errors",
    "UsageError": "labkit.errors",
    "Workload": "labkit.workload",
}
_MODULES = ("charts", "choice", "claims", "clients", "demos", "lessons")
__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"labkit.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
