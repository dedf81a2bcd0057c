"""Polling: ask twice a second for what came after the last event. Usage: polling.py SERVER."""

import json
import sys
import time
from urllib.request import urlopen

query = ""
while True:
    with urlopen(f"{sys.argv[1]}/events{query}") as answer:
        for line in answer:
            print(line.strip().decode(), flush=True)
            query = f"?after={json.loads(line)['id']}"
    time.sleep(0.5)
