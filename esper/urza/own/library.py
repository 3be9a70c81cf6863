"""The library: a user's own blueprints on the disk, a catalogue in SQLite and artefacts named by their digests.

Every change, its files included, happens under the catalogue's write lock, so that adders and the collection of garbage
wait for each other, in whichever process they are, and a kill leaves no lock behind. Files are durable before the row
that names them: a row is whole or absent, and what a kill left of an adding is garbage.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.core.clock import Clock
from esper.core.dependency_guard import require
from esper.core.errors import ConfigError, StorageError
from esper.core.security.signing import Signer
from esper.core.storage.files import FORBIDDEN, forbidden
from esper.core.storage.storage_faults import opening_fault
from esper.urza.artifacts import ArtifactStore
from esper.urza.own.description import Described
from esper.urza.own.sheet import signed_sheet

CATALOG, ARTIFACTS = "catalog.db", "artifacts"
BUSY_S = 30.0
_VERSION = 1
_SCHEMA = (
    "CREATE TABLE sheets (blueprint_id TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL UNIQUE,"
    " content TEXT NOT NULL, sheet BLOB NOT NULL, added_ns INTEGER NOT NULL, is_current INTEGER NOT NULL,"
    " PRIMARY KEY (blueprint_id, version)) WITHOUT ROWID",
    "CREATE TABLE artifacts (digest TEXT NOT NULL, artifact TEXT NOT NULL,"
    " PRIMARY KEY (digest, artifact)) WITHOUT ROWID",
    "CREATE TABLE uses (digest TEXT NOT NULL, run_dir TEXT NOT NULL, since_ns INTEGER NOT NULL,"
    " PRIMARY KEY (digest, run_dir)) WITHOUT ROWID",
    f"PRAGMA user_version = {_VERSION}",
)
_COLUMNS = "SELECT blueprint_id, version, digest, sheet, added_ns, is_current FROM sheets"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one blueprint as it stands in the catalogue; its sheet is not verified yet."""

    blueprint_id: str
    version: int
    digest: str
    sheet: bytes
    added_ns: int
    is_current: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """What a collection removes."""

    entries: tuple[Entry, ...]
    files: tuple[Path, ...]
    size_bytes: int


class Library:
    """A directory with a catalogue; nothing is kept open between two calls."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        if directory.exists() and not directory.is_dir():
            raise ConfigError("library", str(directory), "is no directory; name the one that the library is in")
        self.directory = directory
        self._clock = clock

    @property
    def artifact_dir(self) -> Path:
        return self.directory / ARTIFACTS

    def add(self, described: Described, signer: Signer) -> tuple[Entry, bool]:
        """The blueprint's entry, durable, and whether it is new: what is there already gets no further version."""
        with self._changing(is_made=True) as db:
            content = _content(described)
            current = _current(db, described.blueprint.blueprint_id)
            known = db.execute("SELECT content FROM sheets WHERE digest = ?", (current.digest,)) if current else None
            if current is not None and known is not None and known.fetchone()[0] == content:
                self._put(described.completed(current.version)[1], *described.files)
                return self._signed_anew(db, described, current, signer), False
            entry = self._added(db, described, content, signer)
        return entry, True

    def entries(self) -> list[Entry]:
        """Every version, the newest of each blueprint first. An absent library has none."""
        with self._reading() as db:
            rows = db.execute(f"{_COLUMNS} ORDER BY blueprint_id, version DESC") if db else ()
            return [_entry(row) for row in rows]

    def current(self, blueprint_id: str) -> Entry:
        """The version that a new run gets. Raises DependencyViolationError."""
        with self._reading() as db:
            found = _current(db, blueprint_id) if db else None
        known = ", ".join(entry.blueprint_id for entry in self.entries() if entry.is_current) or "none yet"
        remedy = f"there is {known} in {self.directory}; `esper urza add` adds one"
        return require(found, "urza", "blueprint", blueprint_id, remedy)

    def artifact(self, digest: str) -> bytes:
        """An artefact, verified. Raises DependencyViolationError if it is missing, CorruptRecord if it is damaged."""
        return ArtifactStore(self.artifact_dir if self.artifact_dir.is_dir() else None).get(digest)

    def note_use(self, digest: str, run_dir: Path) -> None:
        """From now on the version is kept as long as the run's directory is there."""
        with self._changing() as db:
            row = (digest, str(run_dir.resolve()), self._clock.now_ns())
            db.execute("INSERT OR REPLACE INTO uses VALUES (?, ?, ?)", row)

    def users(self, digest: str) -> list[Path]:
        """The runs whose directories are there and that were grown with the version."""
        with self._reading() as db:
            return _users(db, digest) if db else []

    def retire(self, blueprint_id: str) -> Entry:
        """Give it to no new run; its versions are garbage once no run has them."""
        entry = self.current(blueprint_id)
        with self._changing() as db:
            db.execute("UPDATE sheets SET is_current = 0 WHERE blueprint_id = ?", (blueprint_id,))
        return entry

    def collect(self, *, is_dry: bool = False) -> Garbage:
        """Remove versions that are neither current nor any run's, and files that no entry names; says what."""
        if not (self.directory / CATALOG).exists():
            return Garbage(entries=(), files=(), size_bytes=0)
        with self._changing() as db:
            old = [_entry(row) for row in db.execute(f"{_COLUMNS} WHERE NOT is_current")]
            entries = tuple(entry for entry in old if not _users(db, entry.digest))
            gone = {entry.digest for entry in entries}
            kept = {file for digest, file in db.execute("SELECT digest, artifact FROM artifacts") if digest not in gone}
            files = tuple(sorted(path for path in self._files() if path.name not in kept))
            size_bytes = sum(path.stat().st_size for path in files)
            if not is_dry:
                for digest in gone:
                    for table in ("sheets", "artifacts", "uses"):
                        db.execute(f"DELETE FROM {table} WHERE digest = ?", (digest,))
                self._remove_after_commit(db, files)
        return Garbage(entries=entries, files=files, size_bytes=size_bytes)

    def _files(self) -> Iterator[Path]:
        return (path for path in self.artifact_dir.iterdir() if path.is_file() and not path.is_symlink())

    def _remove_after_commit(self, db: sqlite3.Connection, files: Sequence[Path]) -> None:
        """Rows first: a kill in between leaves files that nobody names, never names without a file.

        An adder that comes in between the commit and the removal would lose its files, so the lock is taken again.
        """
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        named = {row[0] for row in db.execute("SELECT artifact FROM artifacts")}
        for path in files:
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _added(self, db: sqlite3.Connection, described: Described, content: str, signer: Signer) -> Entry:
        blueprint_id = described.blueprint.blueprint_id
        newest = db.execute("SELECT MAX(version) FROM sheets WHERE blueprint_id = ?", (blueprint_id,)).fetchone()[0]
        blueprint, artifact = described.completed((newest or 0) + 1)
        digests = self._put(artifact, *described.files)
        entry = Entry(
            blueprint_id,
            blueprint.version,
            blueprint.digest,
            signed_sheet(signer, blueprint),
            self._clock.now_ns(),
            True,
        )
        db.execute("UPDATE sheets SET is_current = 0 WHERE blueprint_id = ?", (blueprint_id,))
        row = (blueprint_id, entry.version, entry.digest, content, entry.sheet, entry.added_ns, 1)
        db.execute("INSERT INTO sheets VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        db.executemany("INSERT OR IGNORE INTO artifacts VALUES (?, ?)", [(entry.digest, each) for each in digests])
        return entry

    def _signed_anew(self, db: sqlite3.Connection, described: Described, known: Entry, signer: Signer) -> Entry:
        """Who adds the same again signs it again: with a new key after the old one has ended, for instance."""
        sheet = signed_sheet(signer, described.completed(known.version)[0])
        db.execute("UPDATE sheets SET sheet = ? WHERE digest = ?", (sheet, known.digest))
        return Entry(known.blueprint_id, known.version, known.digest, sheet, known.added_ns, True)

    def _put(self, *contents: bytes) -> list[str]:
        store = ArtifactStore(self.artifact_dir)
        return [store.put(content) for content in contents]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """None where there is no library."""
        path = self.directory / CATALOG
        if not path.exists():
            yield None
            return
        with _translated(path), closing(_connected(path)) as db:
            _require_version(db, path)
            yield db

    @contextmanager
    def _changing(self, *, is_made: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, with the write lock from its beginning."""
        path = self.directory / CATALOG
        if not path.exists() and not is_made:
            raise ConfigError("library", str(self.directory), "there is no library; `esper urza add` makes one")
        with _translated(path):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.artifact_dir.mkdir(exist_ok=True, mode=0o700)
            with closing(_connected(path)) as db:
                db.execute("BEGIN IMMEDIATE")
                try:
                    if is_made and _format(db) == 0:
                        for statement in _SCHEMA:
                            db.execute(statement)
                    _require_version(db, path)
                    yield db
                except BaseException:
                    if db.in_transaction:  # a full disk has ended it already
                        db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    return db


def _require_version(db: sqlite3.Connection, path: Path) -> None:
    version = _format(db)
    if version == 0:
        remedy = "put back a copy of it, or `esper urza add` each blueprint again"
        raise StorageError(f"{path} is empty: its first adding was broken off, or it was lost; {remedy}")
    if version != _VERSION:
        raise StorageError(f"{path} has format {version}, expected {_VERSION}; it was made by another version of Esper")


def _format(db: sqlite3.Connection) -> int:
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StorageError(f"{path} has been in use by another process for {BUSY_S:g} s; try again") from error
        raise opening_fault(path, error) from error
    except sqlite3.Error as error:
        raise opening_fault(path, error) from error
    except OSError as error:
        raise (forbidden(error, path) if error.errno in FORBIDDEN else error) from error


def _entry(row: Sequence[Any]) -> Entry:
    blueprint_id, version, digest, sheet, added_ns, is_current = row
    return Entry(blueprint_id, version, digest, sheet, added_ns, bool(is_current))


def _current(db: sqlite3.Connection, blueprint_id: str) -> Entry | None:
    row = db.execute(f"{_COLUMNS} WHERE blueprint_id = ? AND is_current", (blueprint_id,)).fetchone()
    return None if row is None else _entry(row)


def _users(db: sqlite3.Connection, digest: str) -> list[Path]:
    rows = db.execute("SELECT run_dir FROM uses WHERE digest = ? ORDER BY since_ns", (digest,))
    return [path for (name,) in rows if (path := Path(name)).is_dir()]


def _content(described: Described) -> str:
    """SHA-256 of everything but the version."""
    return hashlib.sha256(described.completed(0)[0].SerializeToString(deterministic=True)).hexdigest()
