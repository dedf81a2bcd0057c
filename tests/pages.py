"""A page that shows a widget of the lab, as the kernel knows it: what it is told to do, and what it says."""

import json
import threading
import time

from websockets.sync.client import connect

PAGE = "http://localhost:8888"


def says(widget, **content):
    """A page's message to the kernel."""
    widget._handle_custom_msg(json.loads(json.dumps(content)), [])


class Page:
    """One place that shows a widget; what it is told to do, it does in a thread of its own. A context manager.

    It connects the subscribers it is told of, unless it does not reach the lab, or they do not connect. With facts, it
    answers with these.
    """

    def __init__(self, widget, view="view", reaches=True, connects=True, facts=None):
        self.widget, self.view, self.reaches, self.connects, self.facts = widget, view, reaches, connects, facts
        self._socket = None
        self._threads = []
        self.marks = True
        if widget.has_trait("mark"):
            widget.observe(lambda change: self.marks and self.tell(mark=change["new"]), "mark")
        widget.observe(self._obey, "task")
        says(widget, view=view, shown=True, origin=PAGE)

    def _obey(self, change):
        if change["new"].get("view") == self.view:
            self._threads.append(threading.Thread(target=self._do, args=(change["new"],)))
            self._threads[-1].start()

    def _do(self, task):
        if self.facts:
            self.tell(facts=self.facts)
        elif not self.reaches:
            self.tell(reached=False)
        else:
            self._socket = connect(f"ws://127.0.0.1:{task['page']}/socket", proxy=None, origin=PAGE)
            self._socket.__enter__()  # it stays open when this thread is done
            self.tell(reached=True, proxied=False)
            if self.connects:
                self.told(*([subscriber, "up", ""] for subscriber in range(task["subscribers"])))

    def tell(self, **content):
        says(self.widget, view=self.view, task=self.widget.task["id"], **content)

    def told(self, *rows, at=None):
        """Rows are (subscriber, what, text); they bear the present, or another, time."""
        time_ns = at or time.monotonic_ns()
        self.tell(told=[[subscriber, time_ns, what, text] for subscriber, what, text in rows], error_ms=0.25)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """It is closed: as by a reload, nobody is told."""
        for thread in self._threads:
            thread.join(10)
        if self._socket:
            self._socket.__exit__(None, None, None)
            self._socket = None
