"""Whose signature a library's sheets carry: the environment's key where there is one, else the library's own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from esper.core.errors import ConfigError
from esper.core.security.keys import Keyring, load_keyring, new_secret, read_secret
from esper.core.storage.files import write_new

SECRET = "secret"
VARIABLES = ("ESPER_KEYRING", "ESPER_LEYLINE_SECRET")


def library_keyring(directory: Path, environ: Mapping[str, str], *, is_made: bool = False) -> Keyring:
    """The keys that sheets are signed and believed by; `is_made` makes the library's own secret where there is none."""
    if any(environ.get(name) for name in VARIABLES):
        return load_keyring(environ, None)
    path = directory / SECRET
    if not path.exists():
        if not is_made:
            remedy = f"there is no key to believe its sheets by; set {' or '.join(VARIABLES)} as when they were signed"
            raise ConfigError("library", str(directory), remedy)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):  # another made it meanwhile: its sheets are signed by that one
            write_new(path, f"{new_secret()}\n".encode(), mode=0o600)
    if path.stat().st_mode & 0o077:
        raise ConfigError("library", str(path), "others can read this secret; chmod 600 it")
    return Keyring.from_secret(read_secret(path, "library"), key_id="library")
