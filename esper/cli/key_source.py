"""Which keys a verb works with: a keyring file, a run's secret, or the environment's."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

from esper.core.errors import ConfigError
from esper.core.security.keys import Keyring, load_keyring, read_secret
from esper.core.storage.files import read_regular

FROM_ENVIRONMENT = "env"


def add_key_flag(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Declare --key."""
    parser.add_argument(
        "--key",
        metavar="FILE|env",
        default=FROM_ENVIRONMENT,
        help="keyring file, or a file with a secret such as RUN_DIR/secret; "
        f"env is ESPER_KEYRING or ESPER_LEYLINE_SECRET (default: {default or 'env'})",
    )


def keyring_of(key: str) -> Keyring:
    """The keyring that --key names."""
    if key == FROM_ENVIRONMENT:
        return load_keyring(os.environ, None)
    path = Path(key)
    return Keyring.load(path) if _starts_with_brace(path) else Keyring.from_secret(_secret(path))


def keyring_for(key: str, run_dir: Path | None) -> Keyring:
    """The keyring that --key names; left to the environment, a run's own secret comes first, where it has one."""
    secret = None if run_dir is None else run_dir / "secret"
    is_own = key == FROM_ENVIRONMENT and secret is not None and secret.exists()
    return keyring_of(str(secret) if is_own else key)


def _starts_with_brace(path: Path) -> bool:
    try:
        return read_regular(path).lstrip()[:1] == b"{"
    except OSError as error:
        raise ConfigError("--key", str(path), f"can't be read ({error.strerror})") from error


def _secret(path: Path) -> str:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError("--key", str(path), f"mode {mode:04o} lets others read it; chmod 600 it")
    return read_secret(path, "--key")
