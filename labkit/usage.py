"""What a process of the lab uses: CPU seconds and memory."""

import time
from pathlib import Path

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
        # Threads that have ended are in the ticks alone, and what is less than a tick is in the threads alone.
        return max(times.user + times.system, _threads_s(self._process.pid))

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


def _threads_s(pid: int) -> float:
    """CPU seconds of the threads a process has, to the nanosecond; 0 where the system does not tell (Linux does)."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
