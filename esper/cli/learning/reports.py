"""`esper reports`: field reports of a replay store as rows for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from esper.cli.learning.simic import looked_through
from esper.cli.usage import Verbs, add_group, add_verb
from esper.core.counted import counted


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "reports", "field reports: what was decided and what came of it")
    exported = add_verb(group, "export", run_export, "write a store's reports as rows")
    exported.add_argument("store", type=Path, metavar="STORE", help="the directory of a replay store")
    exported.add_argument("out", type=Path, metavar="OUT", help="NAME.jsonl; with pyarrow NAME.parquet, NAME.arrow")


def run_export(arguments: argparse.Namespace) -> int:
    from esper.simic.export import export

    with looked_through(arguments.store) as store:
        print(f"{counted(export(store.reports(), arguments.out), 'report')} in {arguments.out}")
    return 0
