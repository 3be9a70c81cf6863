"""Adds versions of a blueprint to a library until it is killed: each a new source."""

from __future__ import annotations

import sys
from pathlib import Path

from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.urza.own.library import Library
from tests.unit.urza.own.making import SOURCE, described


def main(directory: Path, name: str, first: int) -> None:
    keys = Keyring.from_secret(f"correct horse battery staple 0123456789 {name}")
    library, signer = Library(directory, SYSTEM_CLOCK), Signer(keys, SYSTEM_CLOCK)
    number = first
    while True:
        made = described(directory.parent / name, source=f"{SOURCE}# {name} {number}\n")
        entry, _ = library.add(made, signer)
        print(entry.digest, flush=True)
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
