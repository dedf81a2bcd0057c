"""Shapes: what a JSON file has to hold before any of it is used. What does not is one sentence, whatever is wrong."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from labkit.errors import shown

Shape: TypeAlias = "Callable[[Any], bool] | Mapping[str, Shape] | list[Shape]"
"""What a value has to be: what a function says; a list of such; or an object with these keys, and any others.

A key that ends in "?" may be lacking. That of "*" is the shape of every value whose key is not named.
"""

LARGEST = 1e15
DEEPEST = 10


def text(value: Any) -> bool:
    return isinstance(value, str)


def number(value: Any) -> bool:
    """One to calculate with: JSON has integers that no float can hold, and Python's has NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def whole(value: Any) -> bool:
    return isinstance(value, int) and number(value)


def plain(value: Any) -> bool:
    """What can be written in a line, whatever it is."""
    return value is None or isinstance(value, bool) or text(value) or number(value)


def moment(value: Any) -> bool:
    """A time with its zone."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def anything(value: Any, levels: int = DEEPEST) -> bool:
    """Whatever nobody looks at; not so deep, though, that it could be read and not be written again."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(anything(each, levels - 1) for each in inner)


def optional(shape: Shape) -> Shape:
    return lambda value: value is None or not fault(value, shape)


def read_object(path: Path, shape: Shape) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, and what is wrong with it, in words: "" where it is of that shape."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # the latter of what is nested too deeply
        return {}, "it is no JSON that can be read"
    return found if isinstance(found, dict) else {}, fault(found, shape)


def fault(value: Any, shape: Shape, name: str = "") -> str:
    """What is wrong first, in words, with a value of that name; "" where it is of that shape."""
    inner: list[tuple[Any, Shape, str]]
    if isinstance(shape, list) and isinstance(value, list):
        inner = [(each, shape[0], f"{name}[{number}]") for number, each in enumerate(value)]
    elif isinstance(shape, Mapping) and isinstance(value, dict):
        if lacking := [key for key in shape if not key.endswith(("?", "*")) and key not in value]:
            return f"{name or 'it'} lacks {lacking[0]}"
        known = {key.removesuffix("?"): each for key, each in shape.items()}
        inner = [
            (each, known[key], f"{name}.{key}".removeprefix("."))
            if key in known
            else (each, known.get("*", anything), f"{name}[{key!r}]")
            for key, each in value.items()
        ]
    else:
        return "" if callable(shape) and shape(value) else f"{name or 'it'} is {shown(value)}"
    return next(filter(None, (fault(*each) for each in inner)), "")
