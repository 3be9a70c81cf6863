"""`esper keys`: make, list, rotate and revoke the keys of a keyring file; prove by a token who calls a service."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.cli.key_source import add_key_flag, keyring_of
from esper.cli.usage import UsageError, Verbs, add_group, add_verb
from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, utc_text
from esper.core.errors import ConfigError
from esper.core.security.keys import Key, KeySet, change_keys, new_secret, read_keys, write_new_keys
from esper.core.security.tokens import service_token
from esper.rpc.auth import KNOWN_SERVICES

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d+)([smhd])\Z")


def register(verbs: Verbs) -> None:
    group = add_group(verbs, "keys", "make and keep the keys that sign, and the tokens made from them")
    new = add_verb(group, "new", run_new, "make a keyring file; without FILE print a secret for ESPER_LEYLINE_SECRET")
    new.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the keyring to make; it must not be there yet")
    new.add_argument("--key-id", default="k1", help="id of the first key (k1)")
    listing = add_verb(group, "list", run_list, "list ids, algorithms and dates of a keyring file")
    listing.add_argument("file", type=Path, metavar="FILE", help="the keyring")
    rotate = add_verb(group, "rotate", run_rotate, "add a key and sign with it; the former stays accepted for a while")
    rotate.add_argument("file", type=Path, metavar="FILE", help="the keyring")
    rotate.add_argument("--key-id", help="id of the new key (the next k<number>)")
    rotate.add_argument("--grace", type=_seconds, default="24h", metavar="SPAN", help="e.g. 90s, 10m, 24h, 7d (24h)")
    revoke = add_verb(group, "revoke", run_revoke, "accept a key no longer, from now on")
    revoke.add_argument("file", type=Path, metavar="FILE", help="the keyring")
    revoke.add_argument("key_id", metavar="KEY_ID", help="the key, as `esper keys list` names it")
    token = add_verb(group, "token", run_token, "print the token of a service, for calls by hand to Weatherlight")
    token.add_argument("service", choices=KNOWN_SERVICES, metavar="SERVICE", help="operator, for a person's calls")
    add_key_flag(token)


def run_new(arguments: argparse.Namespace) -> int:
    if arguments.file is None:
        print(new_secret())
        return 0
    keys = KeySet(active=arguments.key_id, keys=(Key(key_id=arguments.key_id, secret=new_secret()),))
    with _written(arguments.file):
        write_new_keys(arguments.file, keys)
    print(f"{arguments.file}: key {arguments.key_id}; name the file with --keyring or ESPER_KEYRING")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    keys, now_ns = read_keys(arguments.file), SYSTEM_CLOCK.now_ns()
    for key in keys.keys:
        print(f"{key.key_id:20} {key.algorithm:12} {_state(key, keys.active, now_ns)}")
    return 0


def run_rotate(arguments: argparse.Namespace) -> int:
    until_ns = SYSTEM_CLOCK.now_ns() + arguments.grace * NS_PER_S

    def rotated(keys: KeySet) -> KeySet:
        key = Key(key_id=arguments.key_id or _next_id(keys), secret=new_secret())
        return keys.with_key(key).accepting_until(keys.active, until_ns)

    with _written(arguments.file):
        keys = change_keys(arguments.file, rotated)
    *_, former, active = keys.keys
    print(f"{active.key_id} signs from now on; {former.key_id} is accepted until {utc_text(until_ns)}")
    return 0


def run_revoke(arguments: argparse.Namespace) -> int:
    now_ns = SYSTEM_CLOCK.now_ns()
    with _written(arguments.file):
        change_keys(arguments.file, lambda keys: keys.accepting_until(arguments.key_id, now_ns))
    print(f"{arguments.key_id} is accepted no longer")
    return 0


def run_token(arguments: argparse.Namespace) -> int:
    print(service_token(keyring_of(arguments.key), arguments.service))
    return 0


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise ConfigError("keyring", str(path), "exists already; `esper keys rotate` adds a key to it") from error
    except OSError as error:
        raise ConfigError("keyring", str(path), f"can't be written ({error.strerror})") from error


def _state(key: Key, active: str, now_ns: int) -> str:
    if key.key_id == active:
        return "active"
    if key.accepted_until_ns is None:
        return "accepted"
    return f"{'accepted until' if key.is_accepted(now_ns) else 'ended'} {utc_text(key.accepted_until_ns)}"


def _next_id(keys: KeySet) -> str:
    numbers = [int(key.key_id[1:]) for key in keys.keys if re.fullmatch(r"k\d+", key.key_id)]
    return f"k{max(numbers, default=0) + 1}"


def _seconds(text: str) -> int:
    match = _SPAN.match(text)
    if match is None:
        raise UsageError(f"{text!r} is no span of time; use a number with s, m, h or d, e.g. 24h")
    return int(match[1]) * _UNITS_S[match[2]]
