"""Predictions: what somebody expects of each protocol, recorded with the time before it is measured.

One JSON line for each, in a file of the current folder. Lines are only ever appended; the newest of a question counts.
"""

import html
import json
import math
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import TypeGuard

from labkit.errors import UsageError, shown
from labkit.figures import METRICS
from labkit.guesses import number
from labkit.protocols import PROTOCOLS, find

FILE = "predictions.jsonl"


@dataclass(frozen=True, repr=False)
class Prediction:
    """A metric's value for each protocol, as somebody expected it at a time (ISO 8601, UTC)."""

    question: str
    metric: str
    values: dict[str, float]
    made: str

    def __repr__(self) -> str:
        metric, at = METRICS[self.metric], datetime.fromisoformat(self.made).astimezone()
        values = ", ".join(f"{PROTOCOLS[name].title} {number(value)}" for name, value in self.values.items())
        return f"Predicted at {at:%H:%M:%S}: {self.question} {metric.label} in {metric.unit}: {values}."

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"


def predict(question: str, metric: str, file: Path | str = FILE, **values: float) -> Prediction:
    """Records what you expect of each protocol, in the metric's unit: predict("...", "p50_ms", websocket=1, sse=2).

    Appended to `file` with the time; the newest of a question counts. UsageError where it is none, or the file damaged.
    """
    guess = Prediction(question, metric, dict(values), datetime.now(UTC).isoformat())
    _check(guess)
    path = _place(file)
    guess = replace(guess, values={name: float(value) for name, value in values.items()})
    line = json.dumps(asdict(guess))
    _predictions(path)
    try:
        joined = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        with path.open("a", encoding="utf-8") as out:
            out.write("\n" * joined + line + "\n")
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written ({error.strerror}); name another with file=....") from None
    return guess


def _place(file: Path | str) -> Path:
    """UsageError where no file can have that name."""
    try:
        if b"\0" not in os.fsencode(file):
            return Path(file)
    except (TypeError, ValueError):
        pass
    raise UsageError(f"file is {file!r}, which no file can be called; name one, such as {FILE!r}.")


def _check(guess: Prediction) -> None:
    """UsageError where a prediction cannot be one."""
    if not isinstance(guess.question, str) or not guess.question.strip():
        raise UsageError("A prediction needs a question in words, such as 'How long do subscribers wait?'.")
    try:
        guess.question.encode()
    except UnicodeEncodeError:
        raise UsageError(f"The question {guess.question!a} has half a character in it; leave that out.") from None
    if not isinstance(guess.metric, str) or guess.metric not in METRICS:
        raise UsageError(f"There is no metric {guess.metric!r}; choose from {', '.join(METRICS)}.")
    unit = METRICS[guess.metric].unit
    if not guess.values:
        raise UsageError(f"Nothing is predicted yet; give {unit} for one protocol or more, such as websocket=1.")
    for name, value in guess.values.items():
        find(name)
        if not is_number(value) or value < 0:
            what = "is below zero" if is_number(value) else "is no number"
            raise UsageError(f"{name}={shown(value)} {what}; give {unit}, such as {name}=1.")


def _predictions(path: Path) -> list[Prediction]:
    """All that a file holds, oldest first; UsageError names the line that is none."""
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read ({error.strerror}); name another with file=....") from None
    found = []
    for count, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(Prediction(**json.loads(line)))
                _check(found[-1])
                if datetime.fromisoformat(found[-1].made).tzinfo is None:
                    raise ValueError("a time without its zone")
            except (ValueError, TypeError, AttributeError, RecursionError):
                fix = "mend or delete that line, or name another file with file=..."
                raise UsageError(f"Line {count} of {str(path)!r} is no prediction; {fix}.") from None
    return found


def newest(question: str, file: Path | str) -> Prediction:
    """The last prediction made for a question; UsageError where there is none."""
    path = _place(file)
    found = [guess for guess in _predictions(path) if guess.question == question]
    if not found:
        raise UsageError(f"{str(path)!r} has no prediction for {question!r}; make one with lab.lessons.predict first.")
    return found[-1]


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number, as a float can be; a truth value is none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
