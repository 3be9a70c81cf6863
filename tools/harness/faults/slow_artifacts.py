"""Kasmina with a slow artefact store: `python -m tools.harness.faults.slow_artifacts MILLISECONDS FLAG ...`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from esper.kasmina.server import main as serve
from esper.urza.artifacts import ArtifactStore
from tools.harness.faults.replaced import replaced


def main(argv: Sequence[str]) -> int:
    delay_s, get = float(argv[0]) / 1e3, ArtifactStore.get

    def late(self: ArtifactStore, digest: str) -> bytes:
        time.sleep(delay_s)  # the fault, in a thread of the worker
        return get(self, digest)

    with replaced(ArtifactStore, "get", late):
        return serve(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
