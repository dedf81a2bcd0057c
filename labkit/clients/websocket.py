"""WebSocket: dial, then read messages for as long as the server keeps the connection. Usage: websocket.py SERVER."""

import sys

from websockets.sync.client import connect

with connect(sys.argv[1]) as server:
    for message in server:
        print(message, flush=True)
