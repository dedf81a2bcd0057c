"""The controls of a setting: labelled, each with its unit, and with what is wrong about its value beside it.

What is right and wrong is not decided here: values are handed to Workload and Plan, and their sentences are shown.
"""

import html
import re
from dataclasses import fields, replace
from typing import Any, NamedTuple

import ipywidgets as widgets
import traitlets

from labkit.api import NONE, planned
from labkit.errors import UsageError
from labkit.looks import SOFT
from labkit.outage import OUTAGES
from labkit.presets import PRESETS, Setting
from labkit.protocols import PROTOCOLS
from labkit.sheet import MEANING
from labkit.trial import Guarantee, Timings
from labkit.workload import ARRIVALS, BURST_EVENTS, BURST_FACTOR, Workload

LABELLED = {"description_width": "84px"}
LINES = "display:inline-block;line-height:1.35"
WRONG = "var(--jp-error-color1, #b3261e)"
QUIET = f"var(--jp-ui-font-color2, {SOFT})"
"""A page's own theme says how these look; elsewhere they are as on white."""


class Number(NamedTuple):
    """A number to type: what it belongs to, its label, its unit, and whether it has to be whole."""

    of: type
    label: str
    unit: str
    whole: bool = False


OWN = "your own"
"""Called so is what is no preset's setting."""

NUMBERS = {
    "rate": Number(Workload, "Rate", "events per second"),
    "size": Number(Workload, "Size", "bytes per event", whole=True),
    "subscribers": Number(Workload, "Subscribers", "in all", whole=True),
    "topics": Number(Workload, "Topics", "above 1, each subscriber takes one", whole=True),
    "duration": Number(Workload, "Duration", "seconds of load"),
    "poll": Number(Timings, "Poll every", "seconds, for polling"),
}
"""Each is a field of what it belongs to."""


ARRIVES = {
    "constant": "evenly spaced",
    "poisson": "at random times",
    "bursty": f"{BURST_EVENTS} at a time, {BURST_FACTOR} times as fast",
}


class Beside(widgets.HBox):
    """A control, and beside it its unit, or what is wrong with its value."""

    def __init__(self, control: widgets.Widget) -> None:
        self.control, self._words = control, widgets.HTML(layout={"flex": "1 1 0", "min_width": "0"})
        super().__init__([control, self._words], layout={"width": "556px", "max_width": "100%"})
        control.layout.margin = self._words.layout.margin = "1px 4px 1px 0"

    def say(self, problem: str, otherwise: str) -> None:
        """Shows what is wrong; where nothing is, the other words."""
        self._words.value = alert(problem) if problem else remark(otherwise)


def alert(words: str) -> str:
    """What is wrong, as a screen reader announces it."""
    return f'<span role="alert" style="{LINES};color:{WRONG}">⚠ {html.escape(words)}</span>'


def remark(words: str) -> str:
    """What is good to know."""
    return f'<span style="{LINES};color:{QUIET}">{html.escape(words)}</span>'


class Controls(widgets.HBox):
    """Everything there is to choose. `setting` is what it comes to, None where something is wrong; observe it.

    below: what to do with it, to stand below the choice of protocols.
    """

    setting = traitlets.Instance(Setting, allow_none=True)

    def __init__(self, *below: widgets.Widget) -> None:
        self.preset = widgets.Dropdown(
            options=[OWN, *PRESETS],
            value=next(iter(PRESETS)),
            description="Preset",
            style=LABELLED,
            layout={"width": "244px"},
        )
        self._protocols = {name: _box(row.title, "150px") for name, row in PROTOCOLS.items()}
        self._guarantees = {name: _box(f"{name} ({MEANING[name]})", "300px") for name in Guarantee}
        self._numbers = {
            name: Beside(widgets.Text(description=row.label, style=LABELLED, layout={"width": "164px"}))
            for name, row in NUMBERS.items()
        }
        kinds = {f"{kind} ({row.short})": kind for kind, row in OUTAGES.items()} | {NONE: NONE}
        self._arrival, self._outage = (
            Beside(widgets.Dropdown(options=options, description=label, style=LABELLED, layout={"width": "244px"}))
            for label, options in (("Arrival", list(ARRIVALS)), ("Outage", kinds))
        )
        self._chosen = {"protocols": widgets.HTML(), "guarantees": widgets.HTML()}
        self._says = widgets.HTML()
        super().__init__([self._left(below), self._right()], layout={"flex_flow": "row wrap", "flex": "0 1 auto"})
        self._settling = False
        for control in self._all():
            control.observe(self._on_change, "value")
        self.preset.observe(self._on_preset, "value")
        self._on_preset(None)

    def _left(self, below: tuple[widgets.Widget, ...]) -> widgets.VBox:
        heads = [widgets.HTML(f"<b>{title}</b>") for title in ("Protocols", "Guarantees")]
        boxes = widgets.Box(list(self._protocols.values()), layout={"flex_flow": "row wrap"})
        parts = [heads[0], boxes, self._chosen["protocols"]]
        parts += [heads[1], *self._guarantees.values(), self._chosen["guarantees"], *below]
        return widgets.VBox(parts, layout={"width": "310px"})

    def _right(self) -> widgets.VBox:
        parts = [self.preset, self._says, *self._numbers.values(), self._arrival, self._outage]
        return widgets.VBox(parts, layout={"width": "560px", "max_width": "100%"})

    def _all(self) -> list[widgets.Widget]:
        typed = [field.control for field in (*self._numbers.values(), self._arrival, self._outage)]
        return [*self._protocols.values(), *self._guarantees.values(), *typed]

    def choose(self, setting: Setting) -> None:
        """Sets every control, and judges them together."""
        self._settling = True
        for name, box in self._protocols.items():
            box.value = name in setting.protocols
        for guarantee, box in self._guarantees.items():
            box.value = guarantee in setting.guarantees
        for name, field in self._numbers.items():
            holder = setting.workload if NUMBERS[name].of is Workload else setting.timings
            field.control.value = f"{getattr(holder, name):g}"
        self._arrival.control.value = setting.workload.arrival
        self._outage.control.value = setting.outage or NONE
        self._settling = False
        self._judge()

    def _on_preset(self, _: Any) -> None:
        if not self._settling and self.preset.value in PRESETS:
            self.choose(PRESETS[self.preset.value].setting)

    def _on_change(self, _: Any) -> None:
        if not self._settling:
            self._judge()

    def _judge(self) -> None:
        """Says beside each control what is wrong with it, if anything is."""
        values = {name: _number(field.control.value, NUMBERS[name].whole) for name, field in self._numbers.items()}
        problems = {name: _problem(NUMBERS[name].of, **{name: value}) for name, value in values.items()}
        protocols = tuple(name for name, box in self._protocols.items() if box.value)
        guarantees = tuple(name for name, box in self._guarantees.items() if box.value)
        problems["protocols"] = "" if protocols else "Choose one at least."
        problems["guarantees"] = "" if guarantees else "Choose one at least."
        setting = None
        if not any(problems.values()):
            setting, more = self._together(values, protocols, guarantees)
            problems |= more
        for name, field in self._numbers.items():
            field.say(problems[name], NUMBERS[name].unit)
        self._arrival.say("", ARRIVES[self._arrival.control.value])
        kind = self._outage.control.value
        self._outage.say(problems.get("outage", ""), OUTAGES[kind].says if kind in OUTAGES else "nothing breaks")
        for name, place in self._chosen.items():
            place.value = alert(problems[name]) if problems[name] else ""
        self._call_it(setting)
        self.setting = setting

    def _call_it(self, setting: Setting | None) -> None:
        """Says whose setting it is, so that a preset can be chosen again when something was changed."""
        name = next((name for name, preset in PRESETS.items() if preset.setting == setting), OWN)
        self._settling = True
        self.preset.value = name
        self._settling = False
        self._says.value = remark(PRESETS[name].says if name in PRESETS else "Choose a preset to start from.")

    def _together(
        self, values: dict[str, Any], protocols: tuple[str, ...], guarantees: tuple[Guarantee, ...]
    ) -> tuple[Setting | None, dict[str, str]]:
        """The setting that values come to which are each right; or what is wrong with them together, and where."""
        mine = {
            kind: {name: values[name] for name in values if NUMBERS[name].of is kind} for kind in (Workload, Timings)
        }
        outage = None if self._outage.control.value == NONE else self._outage.control.value
        try:
            workload = Workload(arrival=self._arrival.control.value, **mine[Workload])
            timings = replace(Setting().timings, **mine[Timings])
            setting = Setting(workload, protocols, guarantees, outage, timings)
            planned(**setting.arguments())
        except UsageError as error:
            guilty = next((name for name in values if str(error).startswith(f"{name} ")), None)
            return None, {guilty or ("rate" if "events" in str(error) else "outage"): str(error)}
        return setting, {}


def _box(label: str, width: str) -> widgets.Checkbox:
    return widgets.Checkbox(description=label, indent=False, layout={"width": width, "height": "24px", "margin": "0"})


def _number(text: str, whole: bool) -> Any:
    """The number that was typed, perhaps with commas between its thousands; the text itself where it is none."""
    text = text.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", text) else text
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text


def _problem(kind: type, **value: Any) -> str:
    """What is wrong with one field of a dataclass, all others having their defaults."""
    assert set(value) <= {item.name for item in fields(kind)}
    try:
        kind(**value)
    except UsageError as error:
        return str(error)
    return ""
