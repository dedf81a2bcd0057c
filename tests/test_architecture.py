"""Imports only run downwards, and the versions asked for are the same everywhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from labkit.outage import OUTAGES
from labkit.protocols import PROTOCOLS

ROOT = Path(__file__).parent.parent


def requirements() -> dict[str, str]:
    """Name and lower bound of each dependency in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {}
    for line in project["dependencies"]:
        match = re.match(r"([a-z0-9-]+)>=([\d.]+)", line)
        assert match, line
        found[match[1]] = match[2]
    return found


def test_imports_only_run_downwards() -> None:
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_conda_asks_for_what_pip_asks_for() -> None:
    text = (ROOT / "environment.yml").read_text()
    listed = dict(re.findall(r"- ([a-z0-9-]+?)(?:-base)? >=([\d.]+)", text))
    # uvloop is optional, and not to be had on Windows.
    wanted = {name: bound for name, bound in requirements().items() if name != "uvloop"}
    assert {name: listed.get(name) for name in wanted} == wanted
    assert "- -e ." in text


def test_every_dependency_is_pinned_and_no_pin_names_an_index() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"https?:|--", text)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in text.splitlines() if "==" in line}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.split(r"[><=\[]", line)[0] for lines in extras.values() for line in lines}
    assert {*requirements(), *wanted} <= pinned


def test_no_module_is_too_long_for_one_noun() -> None:
    lengths = {path.name: path.read_text().count("\n") for path in (ROOT / "labkit").rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_the_readme_names_every_outage_and_every_policy_for_slow_subscribers() -> None:
    text = (ROOT / "README.md").read_text()
    assert [kind for kind in OUTAGES if f"`{kind}`" not in text] == []
    assert [name for name, row in PROTOCOLS.items() if row.too_slow not in text or f"`{name}`" not in text] == []
