"""Keys: who may sign. A keyring holds several secrets by id; one is active, others are accepted until a date.

The file is JSON, mode 0600, replaced atomically. A keyring that came from a file notices a change of that
file by itself, so a rotation or a revocation needs no restart; a file that has become unreadable refuses all.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from esper.core.errors import ConfigError
from esper.core.storage.files import exclusively, read_regular, write_atomically, write_new

SECRET_VARIABLE = "ESPER_LEYLINE_SECRET"
KEYRING_VARIABLE = "ESPER_KEYRING"
HMAC_SHA256 = "hmac-sha256"
ALGORITHMS = (HMAC_SHA256,)

MIN_SECRET_BYTES = 32
MIN_DISTINCT_BYTES = 10
_KEY_LABEL = b"ESPER-KEY-V1\n"
_KEY_ID = re.compile(r"[0-9A-Za-z._-]{1,64}\Z")


def new_secret() -> str:
    """A fresh master secret: 43 characters that hold 256 random bits."""
    return secrets.token_urlsafe(32)


@lru_cache(maxsize=64)
def derive_key(master: bytes, key_id: str) -> bytes:
    """The signing key of `key_id`: the master secret itself never signs. Kept: every packet asks for it twice."""
    return hmac.digest(master, _KEY_LABEL + key_id.encode(), hashlib.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One secret and how long signatures by it are accepted (Unix nanoseconds; None: no end)."""

    key_id: str
    secret: str = field(repr=False)
    algorithm: str = HMAC_SHA256
    accepted_until_ns: int | None = None

    def __post_init__(self) -> None:
        if not _KEY_ID.match(self.key_id):
            raise ConfigError("key_id", self.key_id, "use 1 to 64 of letters, digits, '.', '_' and '-'")
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm of key {self.key_id}", self.algorithm, f"use one of {', '.join(ALGORITHMS)}")

    def is_accepted(self, now_ns: int) -> bool:
        return self.accepted_until_ns is None or now_ns <= self.accepted_until_ns

    def derived(self) -> bytes:
        """What signs in the name of this key."""
        return derive_key(self.secret.encode(), self.key_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySet:
    """The keys of one moment. Frozen: a change makes a new set."""

    active: str
    keys: tuple[Key, ...]

    def __post_init__(self) -> None:
        ids = [key.key_id for key in self.keys]
        if len(set(ids)) != len(ids):
            raise ConfigError("keys", ids, "give every key an id of its own")
        if self.active not in ids:
            raise ConfigError("active", self.active, f"name one of the keys: {', '.join(ids) or 'there is none'}")

    def find(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.key_id == key_id), None)

    def with_key(self, key: Key) -> KeySet:
        """This set with `key` added as the active one."""
        return KeySet(active=key.key_id, keys=(*self.keys, key))

    def accepting_until(self, key_id: str, until_ns: int) -> KeySet:
        """This set with an end to `key_id`. The active key has none: rotate first."""
        if key_id == self.active:
            raise ConfigError("key_id", key_id, "this is the active key; rotate to a new one first")
        if self.find(key_id) is None:
            raise ConfigError("key_id", key_id, f"no such key; there are {', '.join(k.key_id for k in self.keys)}")
        ended = (replace(k, accepted_until_ns=until_ns) if k.key_id == key_id else k for k in self.keys)
        return KeySet(active=self.active, keys=tuple(ended))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The derived key that signs, and what a message says about it."""

    key_id: str
    algorithm: str
    key: bytes = field(repr=False)


class Keyring:
    """The keys that a process signs and verifies with."""

    def __init__(self, keys: KeySet, *, path: Path | None = None) -> None:
        self._keys = keys
        self._path = path
        self._version = _file_version(path) if path else None
        self._lock = threading.Lock()

    @classmethod
    def from_secret(cls, secret: str, key_id: str = "k1") -> Keyring:
        """A keyring of one key that doesn't end. White space around a secret, as a file's newline, is no part of it."""
        secret = secret.strip()
        check_strength(secret, SECRET_VARIABLE)
        return cls(KeySet(active=key_id, keys=(Key(key_id=key_id, secret=secret),)))

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """A keyring that follows its file."""
        return cls(read_keys(path), path=path)

    @property
    def active(self) -> str:
        """Id of the key that signs."""
        return self._current().active

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Every key id, ended ones included."""
        return tuple(key.key_id for key in self._current().keys)

    def accepted_ids(self, now_ns: int) -> tuple[str, ...]:
        """Ids of the keys whose signatures are believed now."""
        return tuple(key.key_id for key in self._current().keys if key.is_accepted(now_ns))

    def key(self, key_id: str, now_ns: int) -> bytes | None:
        """The derived signing key, or None if the id is unknown or its time is over."""
        keys = self._current()
        found = keys.find(key_id)
        if found is None or not found.is_accepted(now_ns):
            return None
        return found.derived()

    def signing_key(self, now_ns: int) -> SigningKey:
        """What signs now. Raises ConfigError if the file gave even the active key an end, and that has passed."""
        keys = self._current()
        active = keys.find(keys.active)
        if active is None or not active.is_accepted(now_ns):
            remedy = "the active key has ended; make a new one with `esper keys rotate`"
            raise ConfigError("active", keys.active, remedy)
        return SigningKey(active.key_id, active.algorithm, active.derived())

    def algorithm(self, key_id: str) -> str | None:
        """The one algorithm that this key signs with; a message never chooses."""
        found = self._current().find(key_id)
        return found.algorithm if found else None

    def _current(self) -> KeySet:
        if self._path is None:
            return self._keys
        with self._lock:
            version = _file_version(self._path)
            if version != self._version:
                self._keys = read_keys(self._path)
                self._version = version
            return self._keys


def load_keyring(environ: Mapping[str, str], path: Path | None) -> Keyring:
    """The keyring of this process: the file given, else ESPER_KEYRING's, else the secret of ESPER_LEYLINE_SECRET."""
    if path is not None:
        return Keyring.load(path)
    if environ.get(KEYRING_VARIABLE):
        return Keyring.load(Path(environ[KEYRING_VARIABLE]))
    if SECRET_VARIABLE in environ:
        return Keyring.from_secret(environ[SECRET_VARIABLE])
    remedy = (
        f"set it, or name a keyring file in {KEYRING_VARIABLE} (services: also --keyring); `esper keys new` makes one"
    )
    raise ConfigError(SECRET_VARIABLE, None, remedy)


def check_strength(secret: str, name: str) -> None:
    """Refuse a secret that could be guessed. The error never shows it."""
    try:
        raw = secret.encode()
    except UnicodeEncodeError:  # bytes of the environment that are no text
        remedy = "it is no text; give a random secret, e.g. from `esper keys new`"
        raise ConfigError(name, "(hidden)", remedy) from None
    if len(raw) < MIN_SECRET_BYTES:
        raise ConfigError(name, "(hidden)", f"{len(raw)} bytes are too few, at least {MIN_SECRET_BYTES} are needed")
    if len(set(raw)) < MIN_DISTINCT_BYTES:
        remedy = f"only {len(set(raw))} distinct bytes; use a random secret, e.g. from `esper keys new`"
        raise ConfigError(name, "(hidden)", remedy)


def read_secret(path: Path, name: str) -> str:
    """The secret in a file. Raises ConfigError about `name`, which doesn't show it, or OSError."""
    try:
        secret = read_regular(path).decode().strip()
    except UnicodeDecodeError:
        raise ConfigError(name, str(path), "is damaged: a secret is a line of text; put back a copy of it") from None
    check_strength(secret, f"secret in {path}")
    return secret


def read_keys(path: Path) -> KeySet:
    """The keys of a file that only its owner can read."""
    try:
        content = read_regular(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError("keyring", str(path), f"mode {mode:04o} lets others read it; chmod 600 it")
        document = json.loads(content)
        keys = KeySet(active=document["active"], keys=tuple(map(_key, document["keys"])))
    except OSError as error:
        raise ConfigError(
            "keyring", str(path), f"can't be read ({error.strerror}); `esper keys new FILE` makes one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("keyring", str(path), f"not a keyring file ({type(error).__name__}: {error})") from error
    for key in keys.keys:
        check_strength(key.secret, f"secret of key {key.key_id} in {path}")
    return keys


def _key(entry: dict[str, Any]) -> Key:
    return Key(**{**entry, "secret": str.strip(entry["secret"])})


def write_keys(path: Path, keys: KeySet) -> None:
    """Replace the file atomically; nobody else can ever read it."""
    write_atomically(path, _document(keys), mode=0o600)


def write_new_keys(path: Path, keys: KeySet) -> None:
    """The same where there is no file yet. Raises FileExistsError."""
    write_new(path, _document(keys), mode=0o600)


def change_keys(path: Path, change: Callable[[KeySet], KeySet]) -> KeySet:
    """The keys as `change` leaves them; two changes at once follow each other, and neither is lost."""
    with exclusively(path.parent):
        keys = change(read_keys(path))
        write_keys(path, keys)
    return keys


def _document(keys: KeySet) -> bytes:
    return json.dumps({"active": keys.active, "keys": [asdict(key) for key in keys.keys]}, indent=2).encode()


def _file_version(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError("keyring", str(path), f"can't be read ({error.strerror})") from error
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode)
