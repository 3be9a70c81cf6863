"""tolaria-train with faults: `python -m tools.harness.faults.launch NAME=VALUE[,NAME=VALUE] FLAG ...`.

Names are those of `training.FAULTS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack

from esper.tolaria.launcher import main as train
from tools.harness.faults.training import FAULTS


def main(argv: Sequence[str]) -> int:
    wanted, *flags = argv
    with ExitStack() as stack:
        for one in wanted.split(","):
            name, _, value = one.partition("=")
            fault, kind = FAULTS[name]
            stack.enter_context(fault(kind(value)))
        return train(flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
