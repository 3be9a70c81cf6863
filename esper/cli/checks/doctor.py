"""`esper doctor`: what this installation has, what it lacks and what to do about it; exit code 1 for a problem."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

import esper
from esper.cli.usage import Verbs, add_verb
from esper.core.clock import SYSTEM_CLOCK, utc_text
from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.core.plain import clause, plain
from esper.core.security.keys import load_keyring

PACKAGES = ("torch", "protobuf", "grpcio", "grpcio-health-checking", "grpcio-reflection", "opentelemetry-sdk")
MIN_PYTHON = (3, 11)
# Several connections that checkpoint could damage a database before this version; ours has one that does.
SQLITE_WITHOUT_RACE = (3, 51, 3)
MIN_FREE_BYTES = 1 << 30


class Level(Enum):
    """How a finding is to be taken."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    detail: str


def register(verbs: Verbs) -> None:
    parser = add_verb(verbs, "doctor", run, "check this installation")
    parser.add_argument("--run-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    found = list(examine(arguments.run_dir))
    if arguments.json:
        print(json.dumps([{**asdict(finding), "level": finding.level.value} for finding in found], indent=2))
    else:
        for finding in found:
            print(plain(f"{finding.level.value:8} {finding.subject:22} {finding.detail}"))
    return 1 if any(finding.level is Level.PROBLEM for finding in found) else 0


def examine(run_dir: Path) -> Iterator[Finding]:
    """Every check, in order."""
    for check in CHECKS:
        yield from check()
    yield from writable("run directory", run_dir)


def python() -> Iterator[Finding]:
    level = Level.OK if sys.version_info >= MIN_PYTHON else Level.PROBLEM
    yield Finding(level, "python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding(Level.OK, "esper", f"{esper.__version__} in {Path(esper.__file__).parent}")


def packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(Level.OK, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(Level.PROBLEM, name, "is not installed; run `make setup`")


def kernels() -> Iterator[Finding]:
    """Whether the compiled operators load; their own error says how to build them."""
    try:
        import torch

        import esper.kernels
    except ImportError as error:
        yield Finding(Level.PROBLEM, "kernels", str(error))
        return
    yield Finding(Level.OK, "kernels", f"load under torch {torch.__version__}")
    devices = counted(torch.cuda.device_count(), "device")
    cuda = f"{torch.version.cuda}, {devices}" if torch.version.cuda else "a CPU build of torch"
    yield Finding(Level.OK if torch.cuda.is_available() else Level.NOTE, "cuda", cuda)
    if torch.version.cuda:
        try:
            esper.kernels.require_cuda()
            yield Finding(Level.OK, "cuda kernels", "load")
        except ImportError as error:
            yield Finding(Level.PROBLEM, "cuda kernels", str(error))
    compiler = shutil.which("nvcc")
    yield Finding(Level.NOTE, "nvcc", compiler or "not found: the CUDA operators can't be built here")


def sqlite() -> Iterator[Finding]:
    version = sqlite3.sqlite_version
    old = "" if sqlite3.sqlite_version_info >= SQLITE_WITHOUT_RACE else "; keep other writers away from our databases"
    yield Finding(Level.NOTE if old else Level.OK, "sqlite", version + old)


def clock() -> Iterator[Finding]:
    """Signed commands are refused if clocks differ; a clock before this installation is certainly wrong."""
    installed_ns = Path(esper.__file__).stat().st_mtime_ns
    now_ns = SYSTEM_CLOCK.now_ns()
    level = Level.OK if now_ns >= installed_ns else Level.PROBLEM
    remedy = "" if level is Level.OK else "; it is behind the date of this installation: set it"
    yield Finding(level, "clock", utc_text(now_ns) + remedy)


def keys() -> Iterator[Finding]:
    try:
        keyring = load_keyring(os.environ, None)
    except ConfigError as error:
        if error.value is None:
            yield Finding(Level.NOTE, "keys", "none set: runs make their own; services started by hand need one")
        else:
            yield Finding(Level.PROBLEM, "keys", str(error))
        return
    accepted = ", ".join(keyring.accepted_ids(SYSTEM_CLOCK.now_ns()))
    yield Finding(Level.OK, "keys", f"signs with {keyring.active}; accepts {accepted}")


def fork_support() -> Iterator[Finding]:
    value = os.environ.get("GRPC_ENABLE_FORK_SUPPORT")
    if value not in (None, "0", "false"):
        detail = f"is {value}: data workers can hang in gRPC's fork handlers; unset it, the trainer sets 0"
        yield Finding(Level.PROBLEM, "GRPC_ENABLE_FORK_SUPPORT", detail)
    else:
        yield Finding(Level.OK, "GRPC_ENABLE_FORK_SUPPORT", value or "not set: the trainer sets 0")


def sockets() -> Iterator[Finding]:
    """What a service will do: bind a port on loopback, and a socket in a runtime directory."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield Finding(Level.OK, "loopback port", f"can be bound, e.g. {server.getsockname()[1]}")
    except OSError as error:
        yield Finding(Level.PROBLEM, "loopback port", f"can't be bound: {error}")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory(prefix="esper-", dir=runtime) as directory, socket.socket(socket.AF_UNIX) as s:
            s.bind(f"{directory}/weatherlight.sock")
            yield Finding(Level.OK, "unix socket", f"can be made in {runtime}")
    except OSError as error:
        yield Finding(Level.PROBLEM, "unix socket", f"can't be made in {runtime}: {clause(error)}; set XDG_RUNTIME_DIR")


def writable(subject: str, directory: Path) -> Iterator[Finding]:
    """The nearest directory that exists must take files and have room."""
    place = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Finding(Level.PROBLEM, subject, f"{place} can't be written: {error.strerror}")
        return
    level = Level.OK if free >= MIN_FREE_BYTES else Level.NOTE
    yield Finding(level, subject, f"{place} can be written, {free / 2**30:.1f} GiB free")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    kernels,
    sqlite,
    clock,
    keys,
    fork_support,
    sockets,
)
