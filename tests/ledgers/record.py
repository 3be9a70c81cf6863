"""Records the decision ledgers of the version under way: every scenario and two real runs, played and put together.

`python -m tests.ledgers.record` writes tests/ledgers/VERSION/{tamiyo,kasmina}.db.xz anew. Those of a version that is
out stay as they are for ever.
"""

from __future__ import annotations

import argparse
import lzma
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from esper import __version__
from esper.core.decisions import decision_ledger
from esper.core.process.child import child_command
from tests.scenarios import gate_player, policy_player
from tests.scenarios.reading import MEMORY, Seen, files, read

HERE = Path(__file__).parent
SERVICES = ("tamiyo", "kasmina")
SHARED = ("--plain", "--device", "cpu", "--seed", "1")
STACK = (
    *("--data", "pytext", "--samples", "4000", "--context", "32", "--model", "transformer", "--depth", "2"),
    *("--width", "16", "--heads", "2", "--batch-size", "16", "--steps", "800", "--lr", "4e-3"),
    *("--target-depth", "4", "--stack-shares", "0.25", "--stack-recovery-steps", "100"),
)
RUNS = {"digits": ("--data", "digits", "--model", "mlp", "--hidden", "6,6"), "stack": STACK}


def played(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """A service's scenarios, each with the database that it left."""
    for path in files("policy" if name == "tamiyo" else "gates"):
        place = folder / path.stem
        place.mkdir()
        if name == "kasmina":
            gate_player.play(read(path, gate_player.Scene, gate_player.Stage), place, Seen())
        else:
            scene = read(path, policy_player.Scene, policy_player.Stage)
            if scene.sheets:  # blueprints that no catalogue has
                continue
            policy_player.play(scene, place, Seen())
        yield path.stem, place / f"{name}.db"


def trained(folder: Path) -> None:
    """Real runs, whose services leave their databases in their own directories."""
    for name, arguments in RUNS.items():
        line = [*child_command("esper.tolaria.launcher"), *SHARED, *arguments, "--run-dir", str(folder / name)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def put_together(ledger: Path, found: Iterator[tuple[str, Path]]) -> int:
    """Copy the decisions of databases into one ledger, each under its own name; gives the number of rows."""
    with closing(sqlite3.connect(ledger)) as connection:
        decision_ledger.create(connection)
        for name, database in found:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as played_one:
                for _, *spec in played_one.execute("SELECT * FROM decision_specs"):
                    connection.execute("INSERT INTO decision_specs VALUES (?, ?, ?)", (name, *spec))
                for _, _, *row, record in played_one.execute("SELECT * FROM decisions ORDER BY seq"):
                    plain = zlib.compress(zlib.decompress(record), 0)  # the rows are packed together, which is smaller
                    connection.execute("INSERT INTO decisions VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", (name, *row, plain))
        connection.commit()
        connection.execute("VACUUM")
        (count,) = connection.execute("SELECT count(*) FROM decisions").fetchone()
    return int(count)


def main() -> int:
    argparse.ArgumentParser(prog="python -m tests.ledgers.record", description=__doc__).parse_args()
    version = HERE / __version__
    version.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        trained(Path(folder))
        for name in SERVICES:
            runs = [(run, Path(folder, run, "services", f"{name}.db")) for run in RUNS]
            place = Path(folder, name)
            place.mkdir()
            ledger = place / f"{name}.db"
            count = put_together(ledger, iter([*played(name, place), *runs]))
            packed = version / f"{name}.db.xz"
            packed.write_bytes(lzma.compress(ledger.read_bytes(), preset=9))
            print(f"{packed.relative_to(HERE)}: {count} decisions")
    return 0


def unpacked(version: Path, folder: Path) -> Path:
    """A version's ledgers as the services leave them."""
    for name in SERVICES:
        (folder / f"{name}.db").write_bytes(lzma.decompress((version / f"{name}.db.xz").read_bytes()))
    return folder


if __name__ == "__main__":
    sys.exit(main())
