"""`esper audit host`: the network that a run was opened with, as its trainer signed it and Kasmina keeps it."""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from esper.cli.stores.databases import find
from esper.core.counted import counted
from esper.core.errors import StorageError
from esper.core.plain import plain
from esper.core.storage.read_only import looked_at
from esper.leyline import KasminaRunSpec, SubmoduleSpec

DATABASE = "kasmina.db"
_SPECS = "SELECT spec FROM runs ORDER BY run_id"


def run(arguments: argparse.Namespace) -> int:
    for spec in read_specs(find(arguments.run_dir, DATABASE)):
        print("\n".join(map(plain, lines(spec))))
    return 0


def read_specs(ledger: Path) -> list[KasminaRunSpec]:
    """What each run of a ledger was opened with last. The database isn't changed. Raises StorageError."""
    try:
        with looked_at(ledger) as connection:
            return [KasminaRunSpec.FromString(spec) for (spec,) in connection.execute(_SPECS)]
    except (sqlite3.Error, DecodeError) as error:
        raise StorageError(f"{ledger} can't be read as a ledger: {error}") from error


def lines(spec: KasminaRunSpec) -> Iterator[str]:
    """The host for people."""
    host = spec.manifest
    yield f"run {spec.training_run_id}, generation {spec.generation}, seed {spec.seed}"
    yield f"  {host.model} of {counted(host.parameters, 'parameter')}, {host.optimizer_family}"
    yield f"  weights {host.weights_digest} when that generation began"
    yield from (f"  {_submodule(submodule)}" for submodule in host.submodules)


def _submodule(submodule: SubmoduleSpec) -> str:
    shape = f" -> {' x '.join(map(str, submodule.output_shape))}" if submodule.output_shape else ""
    dtype = f" {submodule.dtype}" if submodule.HasField("dtype") else ""
    size = counted(submodule.parameters, "parameter")
    return f"{submodule.path or 'the network itself'}: {submodule.class_name}, {size}{shape}{dtype}"
