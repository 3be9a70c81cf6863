"""`python -m esper.tolaria`, and `torchrun -m esper.tolaria` with several processes: as `tolaria-train`."""

from __future__ import annotations

import sys

from esper.tolaria.launcher import main

if __name__ == "__main__":
    sys.exit(main())
