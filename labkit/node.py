"""Child entry: one process that is a producer, a consumer, a link, a broker or a live server.

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

from labkit.errors import TrialError, UsageError

EXIT_LIMIT = 3.0
"""Seconds after which a node that hangs on its way out is ended."""

ROLES = {
    "producer": ("labkit.parties", "ProducerRole"),
    "consumer": ("labkit.parties", "ConsumerRole"),
    "link": ("labkit.between", "LinkRole"),
    "broker": ("labkit.between", "BrokerRole"),
    "live": ("labkit.live", "LiveRole"),
}
"""A role's module is loaded by the node that plays it: a link does without an HTTP library."""

COMMANDS = {
    *("open", "connect", "route", "plan", "warm", "load", "flood", "publish"),
    *("status", "pending", "count", "close"),
}


async def serve(role_name: str) -> None:
    """Answers commands until standard input closes."""
    module, class_name = ROLES[role_name]
    role_type = getattr(import_module(module), class_name)
    loop = asyncio.get_running_loop()
    commands: asyncio.Queue[str | None] = asyncio.Queue()
    threading.Thread(target=_read_commands, args=(loop, commands), daemon=True).start()
    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGTERM, commands.put_nowait, None)
    role: Any = None
    while command := await commands.get():
        name = ""
        try:
            arguments = json.loads(command)
            name = arguments.pop("do")
            if name not in COMMANDS:
                raise ValueError(f"no such command: {name}")
            if name == "open":
                role = role_type()
            result = await getattr(role, name)(**arguments)
            answer = {"result": result}
        except (TrialError, UsageError) as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"The {role_name} failed: {type(error).__name__}: {error}"}
            sys.excepthook(type(error), error, error.__traceback__)
        if name == "close":
            role = None
        print(json.dumps(answer), flush=True)
    if role is not None:
        await role.close()


def _read_commands(loop: asyncio.AbstractEventLoop, commands: "asyncio.Queue[str | None]") -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, line)
    loop.call_soon_threadsafe(commands.put_nowait, None)
    # Whatever hangs on the way out, the process ends.
    time.sleep(EXIT_LIMIT)
    os._exit(1)


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
    run(serve(sys.argv[1]))
    # The reading thread may still hold standard input, which an ordinary exit would wait for.
    os._exit(0)
