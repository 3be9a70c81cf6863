"""Permissions that are obeyed also where the tests are run by root."""

from __future__ import annotations

import os
import shutil

import pytest


def as_its_user() -> list[str]:
    """What has a command obey permissions, which root doesn't."""
    if os.geteuid():
        return []
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("root obeys no permissions, and setpriv (Debian: util-linux) is missing")
    return [setpriv, "--bounding-set", "-dac_override,-dac_read_search", "--"]
