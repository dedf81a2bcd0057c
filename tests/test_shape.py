"""What a JSON file has to hold: each kind of value, and what is said of one that is another."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from labkit import shape
from labkit.shape import Shape, fault, read_object

DEEP = "[" * 100_000


def nested(levels: int) -> Any:
    """An odd number of levels."""
    return {"a": [nested(levels - 2)]} if levels > 1 else 0


@pytest.mark.parametrize(
    ("fits", "good", "bad"),
    [
        (shape.text, ["", "a"], [None, 1, [], {}]),
        (shape.number, [0, 1, -1, 0.5, 1e15], [None, True, "1", math.nan, math.inf, 10**400, [1]]),
        (shape.whole, [0, 1, 10**15], [None, True, 1.0, "1", 10**16]),
        (shape.plain, [None, True, "a", 1, 0.5], [[], {}, math.nan]),
        (shape.moment, ["2026-01-01T00:00:00+00:00"], [None, 5, "yesterday", "2026-01-01T00:00:00"]),
        (shape.anything, [None, [], nested(shape.DEEPEST - 1)], [nested(shape.DEEPEST + 1)]),
        (shape.optional([shape.text]), [None, [], ["a"]], [5, "a", [5]]),
    ],
)
def test_each_kind_of_value_is_that_and_nothing_else(fits: Shape, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if fault(value, fits)] == []
    assert [value for value in bad if not fault(value, fits)] == []


TREE: Shape = {
    "name": shape.text,
    "parts?": [{"seconds": shape.number, "commit?": shape.optional(shape.text)}],
    "each?": {"*": shape.text},
}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"name": "a"}, ""),
        ({"name": "a", "parts": [], "each": {}, "other": {"any": [None]}}, ""),
        ({"name": "a", "parts": [{"seconds": 1}, {"seconds": 2, "commit": None}]}, ""),
        ([], "it is []"),
        (None, "it is None"),
        ({}, "it lacks name"),
        ({"name": 5}, "name is 5"),
        ({"name": "a", "parts": None}, "parts is None"),
        ({"name": "a", "parts": {}}, "parts is {}"),
        ({"name": "a", "parts": [1]}, "parts[0] is 1"),
        ({"name": "a", "parts": [{"seconds": 1}, {}]}, "parts[1] lacks seconds"),
        ({"name": "a", "parts": [{"seconds": "x" * 99}]}, "parts[0].seconds is 'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
        ({"name": "a", "parts": [{"seconds": 1, "commit": 5}]}, "parts[0].commit is 5"),
        ({"name": "a", "each": {"b\n": 5}}, r"each['b\n'] is 5"),
        ({"name": 5, "parts": None}, "name is 5"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_only_the_first(value: Any, wrong: str) -> None:
    assert fault(value, TREE) == wrong


def test_what_nobody_looks_at_may_be_anything_but_too_deep() -> None:
    assert fault({"name": "a", "other": nested(50)}, TREE).startswith("['other'] is {'a': ")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", DEEP.encode(), b'{"a": ' + DEEP.encode()])
def test_a_file_that_is_no_json_is_read_as_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_object(tmp_path / "a.json", TREE) == ({}, "it is no JSON that can be read")


@pytest.mark.parametrize(
    ("value", "found"),
    [({"name": "a"}, ({"name": "a"}, "")), ({"name": 5}, ({"name": 5}, "name is 5")), ([], ({}, "it is []"))],
)
def test_what_a_file_holds_is_read_with_what_is_wrong(tmp_path: Path, value: Any, found: tuple[Any, str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_object(tmp_path / "a.json", TREE) == found
