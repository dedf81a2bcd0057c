"""What a process of the lab uses: CPU seconds and memory."""

import time

import psutil


class Usage:
    """CPU seconds of a process (this one) since `start`, and the largest resident set seen at any `look`."""

    def __init__(self, pid: int | None = None) -> None:
        self._process = psutil.Process(pid)
        self._own = pid is None
        self.peak = 0
        self.start()

    def _cpu(self) -> float:
        if self._own:
            return time.process_time()  # the system counts other processes in ticks of some milliseconds
        times = self._process.cpu_times()
        return times.user + times.system

    def start(self) -> None:
        """Begins counting."""
        self._from = self._cpu()

    @property
    def cpu_s(self) -> float:
        """CPU seconds since `start`."""
        return self._cpu() - self._from

    def look(self) -> None:
        """Notes the present memory."""
        self.peak = max(self.peak, self._process.memory_info().rss)

    def to_json(self) -> dict[str, float]:
        """cpu_s and peak_rss in bytes."""
        self.look()
        return {"cpu_s": self.cpu_s, "peak_rss": self.peak}
