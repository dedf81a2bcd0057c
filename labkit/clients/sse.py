"""Server-Sent Events: one GET whose answer never ends; an event is a `data:` line. Usage: sse.py SERVER."""

import sys
from urllib.request import urlopen

with urlopen(f"{sys.argv[1]}/events") as stream:
    for line in stream:
        if line.startswith(b"data:"):
            print(line[5:].strip().decode(), flush=True)
