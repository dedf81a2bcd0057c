"""Long polling: ask for what came after the last event; the server waits until there is some.

Usage: longpolling.py SERVER.
"""

import json
import sys
from urllib.request import Request, urlopen

query = ""
while True:
    with urlopen(Request(f"{sys.argv[1]}/events{query}", headers={"Prefer": "wait=30"})) as answer:
        for line in answer:
            print(line.strip().decode(), flush=True)
            query = f"?after={json.loads(line)['id']}"
