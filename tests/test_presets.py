"""Settings: the call that is shown asks for exactly what is run; presets can be run."""

from types import SimpleNamespace

import pytest

import labkit as lab
from labkit.api import planned
from labkit.presets import PRESETS, Setting
from labkit.protocols import PROTOCOLS
from labkit.trial import Guarantee, Timings
from labkit.workload import Workload

SETTINGS = {
    **{name: preset.setting for name, preset in PRESETS.items()},
    "all defaults": Setting(timings=Timings()),
    "every field": Setting(
        Workload(5, 2.5, 300, 4, 2, "bursty", "lognormal", 7),
        ("sse",),
        (Guarantee.DURABLE,),
        "consumer-freeze",
        Timings(poll=0.125),
    ),
    "nothing breaks": Setting(outage=None),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_call_shown_asks_for_what_is_run(name):
    setting, asked = SETTINGS[name], {}
    stub = SimpleNamespace(Workload=lab.Workload, Timings=lab.Timings)
    stub.compare = lambda *given, **named: asked.update(plan=planned(*given, **named))
    exec(setting.call(), {"lab": stub})
    assert asked["plan"] == planned(**setting.arguments())


def test_what_is_the_default_anyhow_is_left_out():
    assert Setting(timings=Timings()).call() == "run = lab.compare(\n    lab.Workload(),\n)"
    assert "rate" not in SETTINGS["Quick look"].call()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_breaks_something_and_can_be_planned(name):
    plan = planned(**PRESETS[name].setting.arguments())
    assert {str(trial.outage.kind) for trial in plan.trials() if trial.outage}
    assert PRESETS[name].says.endswith(".")


def test_the_first_preset_has_every_protocol():
    assert next(iter(PRESETS.values())).setting.protocols == tuple(PROTOCOLS)
