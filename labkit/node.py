"""Child entry: one process that is a producer, a consumer, a link, a broker, a live server, or there for a page.

    python -m labkit.node ROLE

Each line on standard input is a JSON command `{"do": NAME, ...}`, each line on standard output its answer:
`{"result": ...}` or `{"error": ...}`. A node serves one trial after the other, and ends, with all that it started,
when its standard input closes: so a killed parent leaves nothing behind.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from typing import Any

import psutil

from labkit.errors import NoRoomError, TrialError, UsageError

EXIT_LIMIT = 3.0
"""Seconds after which a node that hangs on its way out is ended."""

FILES = 65_536
"""Open files that a node allows itself where it may: each subscriber is one on both sides, and two on the link."""

ROLES = {
    "producer": ("labkit.parties", "ProducerRole"),
    "consumer": ("labkit.parties", "ConsumerRole"),
    "spared": ("labkit.parties", "ConsumerRole"),
    "link": ("labkit.between", "LinkRole"),
    "broker": ("labkit.between", "BrokerRole"),
    "live": ("labkit.live", "LiveRole"),
    "page": ("labkit.page", "PageRole"),
}
"""A role's module is loaded by the node that plays it: a link does without an HTTP library."""

COMMANDS = {
    *("open", "connect", "route", "warm", "warm_up", "load", "halt", "flood", "publish"),
    *("cut", "heal", "freeze", "thaw", "note", "retarget", "kill", "restart"),
    *("status", "pending", "count", "close"),
}


async def serve(role_name: str) -> None:
    """Answers commands until standard input closes; then ends whatever the role still has open."""
    module, class_name = ROLES[role_name]
    role_type = getattr(import_module(module), class_name)
    loop = asyncio.get_running_loop()
    commands: asyncio.Queue[str | None] = asyncio.Queue()
    threading.Thread(target=_read_commands, args=(loop, commands), daemon=True).start()
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGTERM, commands.put_nowait, None)
    role: Any = None
    try:
        while command := await commands.get():
            name, arguments = _parsed(command)
            if name == "open":
                role = role_type()
            print(json.dumps(await _answer(role_name, role, name, arguments)), flush=True)
            if name == "close":
                role = None
    except BrokenPipeError:
        pass  # the parent is gone, and nobody is left to be answered
    finally:
        if role is not None:
            await role.close()


def _parsed(command: str) -> tuple[str, dict[str, Any]]:
    """A command's name, empty where it has none, and its arguments."""
    try:
        arguments = json.loads(command)
        return str(arguments.pop("do")), arguments
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", {}


async def _answer(role_name: str, role: Any, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result of one command, or the sentence that says why there is none."""
    try:
        if name not in COMMANDS:
            raise ValueError(f"there is no command {name!r}")
        return {"result": await getattr(role, name)(**arguments)}
    except NoRoomError as error:
        return {"error": str(error), "room": False}
    except (TrialError, UsageError) as error:
        return {"error": str(error)}
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return {"error": f"The {role_name} failed: {type(error).__name__}: {error}"}


def _read_commands(loop: asyncio.AbstractEventLoop, commands: "asyncio.Queue[str | None]") -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, line)
    loop.call_soon_threadsafe(commands.put_nowait, None)
    # Whatever hangs on the way out, the process ends, and what it started with it.
    time.sleep(EXIT_LIMIT)
    for child in psutil.Process().children():
        child.kill()
    os._exit(1)


def allow_files() -> None:
    """Raises the soft limit of open files, 1,024 in many shells, to the hard one or to FILES."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    while soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            return resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            wanted //= 2  # macOS has a hard limit of none, and yet refuses what is above the kernel's own


def run(main: Any) -> None:
    """Runs a coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_files()
    run(serve(sys.argv[1]))
    # The reading thread may still hold standard input, which an ordinary exit would wait for.
    os._exit(0)
