"""`esper export`: write a run's grown network as plain PyTorch that loads without Esper, proven before it is done."""

from __future__ import annotations

import argparse
from pathlib import Path

from esper.cli.usage import Verbs, add_verb, run_directory

OUT = "file to write: NAME.pt2, a program, or NAME.safetensors; or a folder, for a network with save_pretrained"


def register(verbs: Verbs) -> None:
    parser = add_verb(verbs, "export", run, "write a run's network as plain PyTorch")
    parser.add_argument("run_dir", type=run_directory, metavar="RUN_DIR", help="the directory of a finished run")
    parser.add_argument("out", type=Path, metavar="OUT", help=OUT)
    parser.add_argument(
        "--weights",
        default="last",
        choices=("last", "ema", "best"),
        help="those that the run ended with, their average, or those of its best epoch (default: last)",
    )
    parser.add_argument(
        "--seeds-only",
        action="store_true",
        help="write the weights of adapters and other seeds that stayed modules",
    )


def run(arguments: argparse.Namespace) -> int:
    # Only this verb needs torch, whose import takes seconds.
    from esper.tolaria.export import export

    print(export(arguments.run_dir, arguments.out, arguments.weights, seeds_only=arguments.seeds_only).line)
    return 0
