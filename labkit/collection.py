"""A collection: the run folders of a suite, opened together, each by its experiment's name."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from labkit import manifest
from labkit.errors import UsageError, shown
from labkit.results import Run
from labkit.shape import Shape, plain, text
from labkit.trial import SCHEMA

FILE = "suite.json"
HOME = Path(__file__).resolve().parent.parent / "data"
"""The suites and the reference data of a checkout."""

SHAPE: Shape = {
    **manifest.ORIGIN,
    "suite": {"title": text, "tables": {"*": {}}, "charts": {"*": {}}, "seed?": plain, "quick?": plain},
    "parts": [manifest.PART],
    "errors?": {"*": text},
}
"""All that the package reads of the file, but for the tables of experiments and charts, which are a suite's own."""


class Collection(Mapping[str, Run]):
    """A folder that `labkit reference` wrote: experiment -> run, of those that have trials."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.about = _about(self.folder)
        self._runs: dict[str, Run] = {}

    def __repr__(self) -> str:
        return f"{len(self)} runs: {', '.join(self)}"

    @property
    def title(self) -> str:
        """What it is for."""
        return str(self.about["suite"]["title"])

    @property
    def charts(self) -> dict[str, dict[str, Any]]:
        """Those of several runs, by name, as the suite has them."""
        return dict(self.about["suite"]["charts"])

    @cached_property
    def _names(self) -> list[str]:
        return [name for name in self.about["suite"]["tables"] if (self.folder / name / "manifest.json").exists()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Run:
        if name not in self._names:
            raise UsageError(f"There is no run {name!r} in {str(self.folder)!r}; choose from {', '.join(self)}.")
        if name not in self._runs:
            self._runs[name] = Run(self.folder / name)
        return self._runs[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The run, or the default where there is none: a Mapping's own waits for a KeyError, which is no sentence."""
        if name not in self:
            return default
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    @property
    def errors(self) -> dict[str, str]:
        """The trials that failed, each with its experiment, and the demonstrations; and the reason."""
        failed = {f"{name}/{trial}": error for name, run in self.items() for trial, error in run.errors.items()}
        return failed | dict(self.about.get("errors", {}))


def reference() -> Collection:
    """The reference data: what one full run of the reference suite came to, on the machine that its tables name.

    For charts and tables where nothing can be run; UsageError where labkit is installed without its checkout.
    """
    if not (HOME / "reference" / FILE).is_file():
        raise UsageError("There is no reference data here; run it from a checkout installed with pip -e.")
    return Collection(HOME / "reference")


def is_collection(folder: Path | str) -> bool:
    """Whether it is the folder of a suite, not of one run."""
    return (Path(folder) / FILE).is_file()


def _about(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is no suite's folder: it has no {FILE}; give what `labkit reference` named.")
    about, wrong = manifest.checked(path, SHAPE)
    if about.get("schema", SCHEMA) != SCHEMA:
        said = shown(about["schema"])
        raise UsageError(f"{str(folder)!r} has schema {said}; this labkit reads {SCHEMA}: use its own version.")
    if wrong:
        raise UsageError(f"{str(path)!r} is damaged ({wrong}); restore it, or run the suite again.")
    return about
