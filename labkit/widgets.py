"""The dashboard: a comparison by mouse or keyboard. A face of `lab.compare` and of the charts: it measures and draws
nothing. One worker thread does what takes time; what the page shows changes through traits alone.
"""

import base64
import html
import io
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from labkit import charts
from labkit.api import planned
from labkit.controls import Controls, alert, remark
from labkit.errors import TrialError, UsageError, shown
from labkit.job import CHARTS, Drawn, Job, State
from labkit.keys import Keys
from labkit.looks import Chart
from labkit.picture import Picture
from labkit.results import Run
from labkit.trial import Measure

OVERLAID = "overlaid"
VIEWS = {"Latency": Measure.LATENCY, "Bandwidth": Measure.BANDWIDTH, "Disconnect-loss": Measure.LOSS}
HEIGHT = 760
"""CSS pixels of the picture: as tall as the tallest chart of two guarantees."""

PICK = "A run chosen here is shown above; several, with Ctrl or Shift, are laid over each other."

REMEMBERED = 30
"""Runs that the history offers, newest first."""

NOTHING = Drawn(b"", "")

FILES = ("manifest.json", "*.csv", "charts/*")


class Dashboard(widgets.VBox):
    """Controls, progress, charts, and a history of the runs in a folder."""

    def __init__(self, out: Path | str = "runs") -> None:
        self._out = _folder(out)
        self._job: Job | None = None
        self._busy = False
        self._pictures: dict[str, Drawn] = {}
        self._shown = NOTHING
        self._lock = threading.RLock()
        self._worker = ThreadPoolExecutor(1, "labkit-dashboard")
        self._run = _button("Run", "primary", self._on_run)
        self._cancel = _button("Cancel", "", self._on_cancel)
        self._export = _button("Export", "", self._on_export)
        self._status = widgets.HTML()
        self._meter = widgets.HTML()
        self._link = widgets.HTML()
        self._view = widgets.ToggleButtons(
            options={**VIEWS, "Runs overlaid": OVERLAID}, style={"button_width": "130px"}
        )
        self._picture = Picture(height=HEIGHT)
        self._picture.layout.display = "none"
        self._history = widgets.SelectMultiple(
            options=self._runs(), description="History", rows=5, layout={"width": "100%", "max_width": "760px"}
        )
        self._call = widgets.Textarea(description="In a cell", rows=9, layout={"width": "100%", "max_width": "760px"})
        self._controls = Controls(widgets.HBox([self._run, self._cancel]), self._status)
        below = [self._history, widgets.HTML(remark(PICK)), self._call, widgets.HBox([self._export, self._link])]
        super().__init__(
            [
                *(self._controls, self._meter),
                *(widgets.HBox([widgets.HTML("Chart"), self._view]), self._picture),
                *below,
                Keys(),
            ],
            layout={"max_width": "1180px"},
        )
        self._view.observe(self._on_view, "value")
        self._history.observe(self._on_history, "value")
        self._controls.observe(self._on_choice, "setting")
        self._on_choice(None)

    def _on_run(self, _: Any) -> None:
        setting = self._controls.setting
        if setting is None or self._busy:
            return
        self._job, self._busy = Job(planned(**setting.arguments()), self._new_folder(), self._refresh), True
        self._pictures, self._link.value = {}, ""
        self._view.value = Measure.LATENCY if self._view.value == OVERLAID else self._view.value
        self._attempt(self._carry_out, self._job)
        self._refresh()

    def _carry_out(self, job: Job) -> None:
        """Nothing can be chosen in the history before the job's own run is: it would be chosen in its place."""
        try:
            job.run()
        finally:
            with self._lock:
                self._history.options = runs = self._runs()
                self._busy = False
                self._history.value = tuple(folder for _, folder in runs if folder == str(job.folder))
            self._refresh()

    def _on_cancel(self, _: Any) -> None:
        if self._job:
            self._job.cancel()

    def _on_choice(self, _: Any) -> None:
        setting = self._controls.setting
        self._call.value = f"import labkit as lab\n\n{setting.call()}\n" if setting else ""
        self._refresh()

    def _on_view(self, _: Any) -> None:
        self._refresh()
        self._draw_missing()

    def _on_history(self, _: Any) -> None:
        """The job's own run, chosen as it ends, is drawn already."""
        if not (chosen := self._history.value):
            return
        with self._lock:
            if self._job is None or chosen != (str(self._job.folder),):
                self._job, self._pictures = None, {}
                self._status.value = self._meter.value = self._link.value = ""
            if len(chosen) > 1:
                self._view.value = OVERLAID
        self._refresh()
        self._draw_missing()

    def _draw_missing(self) -> None:
        """Has what is to be seen drawn, where it is not yet."""
        if self._history.value and not self._busy and self._view.value not in self._pictures:
            self._attempt(self._draw, self._history.value, self._view.value)

    def _draw(self, chosen: tuple[str, ...], view: str) -> None:
        """Draws one view of what is chosen in the history, unless another choice was made meanwhile."""
        if chosen != self._history.value or view in self._pictures:
            return
        picture = Drawn.of(self._overlay(chosen) if view == OVERLAID else CHARTS[Measure(view)](Run(chosen[0])))
        with self._lock:
            if chosen == self._history.value:
                self._pictures[view] = picture
        self._refresh()

    def _overlay(self, chosen: tuple[str, ...]) -> Chart:
        """The runs laid over each other, each called by the time at which it ended."""
        times, runs = {folder: label.partition("  ")[0] for label, folder in self._history.options}, {}
        for folder in chosen:
            label = times[folder]
            runs[label if label not in runs else f"{label} ({Path(folder).name})"] = Run(folder)
        return charts.overlay(runs)

    def _on_export(self, _: Any) -> None:
        if self._history.value and not self._busy:
            self._link.value = "Being written ..."
            self._attempt(self._write, self._history.value)

    def _write(self, chosen: tuple[str, ...]) -> None:
        """Draws all charts of what is chosen, and offers them with the tables as one file."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for folder in map(Path, chosen):
                run = Run(folder)
                run.save()
                charts.save(run, folder / "charts")
                for path in (path for pattern in FILES for path in sorted(folder.glob(pattern))):
                    archive.write(path, path.relative_to(folder.parent))
            if len(chosen) > 1:
                overlay = self._overlay(chosen)
                archive.writestr("overlay.png", overlay.png())
                archive.writestr("overlay.svg", overlay.svg())
        data = base64.b64encode(packed.getvalue()).decode()
        name = html.escape(f"labkit-{Path(chosen[0]).name}.zip")
        self._link.value = (
            f'<a download="{name}" href="data:application/zip;base64,{data}">Download {name}</a> '
            f"({len(packed.getvalue()) / 1000:,.0f} kB: tables, charts, manifest). "
            f"All that was recorded is in {html.escape(', '.join(chosen))}."
        )

    def _attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        """Has the worker thread do something; what goes wrong there is said in the page."""

        def ended(done: "Future[None]") -> None:
            if error := done.exception():
                known = isinstance(error, UsageError | TrialError | OSError)
                self._status.value = alert(str(error) if known else f"This should not happen: {error!r}")
                self._link.value = ""

        self._worker.submit(work, *arguments).add_done_callback(ended)

    def _refresh(self) -> None:
        """Brings the page up to date; called from any thread."""
        with self._lock:
            job, busy = self._job, self._busy
            self._run.disabled = busy or self._controls.setting is None
            self._cancel.disabled = not (busy and job and job.state is State.RUNNING)
            self._history.disabled = busy
            self._export.disabled = busy or not self._history.value
            if job:
                self._status.value, self._meter.value = _status(job), job.progress.html()
                self._pictures.update(job.pictures)
            self._show(self._pictures.get(self._view.value, NOTHING))

    def _show(self, wanted: Drawn) -> None:
        """Once there was a picture, its place is kept."""
        if wanted != self._shown:
            self._picture.layout.display = None
            self._picture.put(*wanted)
        self._shown = wanted

    def _runs(self) -> list[tuple[str, str]]:
        """The runs in the folder, newest first, each with what it was."""
        found = []
        for path in sorted(self._out.glob("*/manifest.json"), reverse=True)[:REMEMBERED]:
            try:
                run = Run(path.parent)
            except UsageError:
                continue  # another labkit's, or no run at all
            if len(run.errors) < len(run.manifest["trials"]) and "workload" in run.manifest and not run.swept:
                found.append((_label(run), str(path.parent)))
        return found

    def _new_folder(self) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        return self._out / stamp


def dashboard(out: Path | str = "runs") -> Dashboard:
    """Controls, live charts and a history of runs, for a notebook or Voila; runs are kept in the folder `out`."""
    return Dashboard(out)


def _folder(out: Path | str) -> Path:
    """UsageError where no folder can have that name."""
    if not isinstance(out, str | Path) or not str(out):
        raise UsageError(f"out is {shown(out)}; name the folder in which runs are kept, such as 'runs'.")
    return Path(out)


def _button(words: str, style: str, clicked: Callable[[Any], None]) -> widgets.Button:
    button = widgets.Button(description=words, button_style=style)
    button.on_click(clicked)
    return button


def _status(job: Job) -> str:
    """How a job is, in a sentence."""
    count, done = len(job.progress.trials), job.progress.finished
    if job.state is State.FAILED:
        return alert(job.reason)
    words = {
        State.RUNNING: f"{done} of {count} trials, about {job.progress.left_s():.0f} s left.",
        State.DONE: f"Done: {count} trials.",
        State.CANCELLED: f"Cancelled; the {done} of {count} trials that were finished are kept.",
    }[job.state]
    if not done and job.state is State.CANCELLED:
        words = "Cancelled before a trial had finished."
    if job.waits and job.state is State.RUNNING:
        words = "Another dashboard of this kernel runs a comparison; this one begins when that has ended."
    failed = "".join(alert(f"{name} failed: {error}") for name, error in job.progress.errors.items())
    return f'<span role="status">{words}</span> {failed}'


def _label(run: Run) -> str:
    """When a run ended, and what was asked for."""
    load = run.manifest["workload"]
    kinds = ", ".join(outage["kind"] for outage in run.manifest.get("outages", [])) or "no outage"
    what = (
        f"{load['rate']:g}/s, {load['size']:,} B, {load['subscribers']:,} subscribers, {load['duration']:g} s, {kinds}"
    )
    return f"{run.ended.astimezone():%d %b %H:%M:%S}  {what}  ({len(run.manifest['trials'])} trials)"
