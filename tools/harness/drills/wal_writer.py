"""Appends records to a log until it is killed: `LOG [LIMIT_BYTES]`. Each line is a sequence and what was appended.

A line is printed once its record is on the disk. With a limit the log's file can't become larger: a full disk.
"""

from __future__ import annotations

import resource
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from esper.core import wal
from esper.core.errors import StorageError

FULL = 3


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(argv[1]), int(argv[1])))
    with wal.Log(Path(argv[0])) as log:
        while True:
            payload = secrets.token_hex(8 + log.last_seq % 64)
            try:
                seq = log.append(1, payload.encode())
            except StorageError as error:
                print(error, file=sys.stderr)
                return FULL
            log.sync()
            print(seq, payload, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
