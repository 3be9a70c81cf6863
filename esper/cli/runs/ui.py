"""`esper ui`: runs in the browser, while they train and afterwards; `--json` prints every number of the page."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.cli.key_source import FROM_ENVIRONMENT, add_key_flag, keyring_for
from esper.cli.usage import UsageError, Verbs, add_verb
from esper.core.errors import ConfigError
from esper.core.process.streams import say
from esper.core.process.unexpected import unexpected

if TYPE_CHECKING:
    from esper.ui.plane import PlaneWatch

LISTEN = "127.0.0.1:0"
JAEGER = "http://127.0.0.1:16686"  # where services/compose.yaml has it


def register(verbs: Verbs) -> None:
    parser = add_verb(verbs, "ui", run, "show runs in the browser, live")
    parser.add_argument(
        "places",
        nargs="*",
        type=Path,
        metavar="RUN_DIR",
        help="directories of runs, or folders of them; two runs are compared (default: runs)",
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help=f"where, on loopback ({LISTEN}, a free port)")
    parser.add_argument("--json", action="store_true", help="print what the page would show of each run, and stop")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--jaeger", metavar="URL", help=f"where traces are looked up ({JAEGER})")
    parser.add_argument("--url-file", type=Path, metavar="FILE", help="also write the page's address there, mode 0600")
    add_key_flag(parser, default="RUN_DIR/secret where there is one, else env")


def run(arguments: argparse.Namespace) -> int:
    from esper.ui.shelf import Shelf  # html, sockets and threads, which the other verbs start without

    if arguments.json:
        _require_alone(arguments)
    jaeger = arguments.jaeger or JAEGER
    if not jaeger.startswith(("http://", "https://")):
        raise UsageError(f"--jaeger {jaeger!r}: an address that begins with http:// or https:// is needed")
    shelf = Shelf(arguments.places or [Path("runs")], partial(_watch, arguments.key))
    if arguments.json:
        return _print(shelf)
    return _serve(arguments, shelf, jaeger)


def _require_alone(arguments: argparse.Namespace) -> None:
    """What is printed needs no address, browser or service."""
    given = {name: getattr(arguments, name) for name in ("listen", "open", "jaeger", "url_file")}
    given["key"] = arguments.key != FROM_ENVIRONMENT
    if meaningless := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]:
        raise UsageError(f"--json prints and stops: leave {' and '.join(meaningless)} out, or --json")


def _watch(key: str, run_dir: Path) -> PlaneWatch:
    from esper.ui.plane import PlaneWatch

    return PlaneWatch(run_dir, partial(keyring_for, key, run_dir))


def _print(shelf: Any) -> int:
    """Print every run that can be shown; one whose events make no sense is told, and hides none of the others."""
    shown, code = {}, 0
    for name in shelf.names():
        followed = shelf.following(name)
        try:
            _, view = followed.look()
        except Exception as error:  # noqa: BLE001 - files of any age and from anywhere, as at the page's server
            view, code = {"error": unexpected(error)}, 1
            say(f"esper: {followed.run_dir} can't be shown: {unexpected(error)}", sys.stderr)
        shown[name] = {"live": followed.liveness(), **view}
    print(json.dumps(shown, indent=2, allow_nan=False))
    return code


def _serve(arguments: argparse.Namespace, shelf: Any, jaeger: str) -> int:
    from esper.core.storage.files import write_atomically
    from esper.ui.access import local
    from esper.ui.server import PageServer

    with PageServer(local(arguments.listen or LISTEN), shelf, jaeger=jaeger) as server:
        if arguments.url_file is not None:
            try:
                write_atomically(arguments.url_file, f"{server.url}\n".encode(), mode=0o600)
            except OSError as error:
                remedy = f"can't be written: {error.strerror}; give a file in a folder that this user may write to"
                raise ConfigError("--url-file", str(arguments.url_file), remedy) from error
        say(f"esper ui: {server.url}  (Ctrl-C ends it)")
        if arguments.open:
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        server.serve_forever()
    return 0
