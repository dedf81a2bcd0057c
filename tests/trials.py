"""A lab for tests that need whole trials: a few stations that carry out one trial after the other."""

import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit.recording import Recording
from labkit.results import Run
from labkit.station import Station
from labkit.trial import SCHEMA, Trial
from labkit.walk import Walk


class Lab:
    """Runs trials side by side and audits them."""

    def __init__(self, folder: Path, width: int) -> None:
        self._folder, self._stop, self._loads = folder, threading.Event(), threading.Semaphore(width)
        self._stations = [Station(f"station{number}", folder, self._stop) for number in range(width)]

    def run(self, trials: list[Trial]) -> list[Recording]:
        """Carries out as many trials as there are stations, side by side; returns their recordings, in order."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        with ThreadPoolExecutor(len(self._stations)) as pool:
            list(pool.map(self._one, self._stations, trials, [folder] * len(trials)))
        manifest = {"schema": SCHEMA, "trials": {trial.name: {} for trial in trials}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        found = {recording.trial.name: recording for recording in Run(folder).recordings}
        return [found[trial.name] for trial in trials]

    def _one(self, station: Station, trial: Trial, folder: Path) -> None:
        place = folder / "trials" / trial.name
        place.mkdir(parents=True)
        trial.save(place / "spec.json")
        record = Walk(station, trial, place, self._stop, self._loads).run()
        (place / "record.json").write_text(json.dumps(record))

    def close(self) -> None:
        for station in self._stations:
            station.close()
