"""`esper`: look at runs, sign commands, keep keys and blueprints, inspect logs, check an installation.

Exit codes: 0 done, 1 failed, 64 wrong usage, 74 nothing more can be written (make room), 75 a service can't be
reached (try again), 77 this user may not read or write a file, 78 a setting can't be used.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from esper import __version__
from esper.cli.checks import doctor, drill, harness
from esper.cli.learning import reports, simic
from esper.cli.runs import export, seed, status, ui
from esper.cli.services import call, emergency, keys, sign, up
from esper.cli.stores import audit, bus, ledger, urza, wal
from esper.cli.usage import Parser, UsageError
from esper.core.errors import (
    AsyncTimeoutError,
    BackPressure,
    ConfigError,
    EsperError,
    ForbiddenStorage,
    ServiceUnavailable,
    UnwritableStorage,
)
from esper.core.plain import plain
from esper.core.process import streams
from esper.core.process.leaving import kept_inside
from esper.core.process.unexpected import FLAG, unexpected
from esper.core.storage.files import FORBIDDEN, UNWRITABLE, forbidden, how_made_writable, told

GROUPS = (
    *(up, status, ui, export, seed, emergency, call, sign, keys, audit, ledger, wal, bus, urza),
    *(simic, reports, doctor, harness, drill),
)

# The first class that fits decides, so a special case stands before its parent.
EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (UsageError, os.EX_USAGE),
    (ConfigError, os.EX_CONFIG),
    (ServiceUnavailable, os.EX_TEMPFAIL),
    (AsyncTimeoutError, os.EX_TEMPFAIL),
    (BackPressure, os.EX_TEMPFAIL),
    (ForbiddenStorage, os.EX_NOPERM),
    (UnwritableStorage, os.EX_IOERR),
    (EsperError, 1),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    streams.secure()
    try:
        code = _exit_code(argv)
    finally:
        is_lost = streams.settle()
    return code or int(is_lost)


def _exit_code(argv: Sequence[str] | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    try:
        arguments = parser().parse_strictly([word for word in given if word != FLAG])
        with kept_inside():  # an export runs a user's own network
            code: int = arguments.run(arguments)
    except (UsageError, EsperError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 1  # the reader of our output went away, e.g. `| head`
    except OSError as error:
        return _fail(_of_system(error))
    except Exception as error:  # noqa: BLE001 - the edge of the process
        if FLAG in given:
            streams.say(traceback.format_exc(), sys.stderr)
        streams.say(f"esper: {unexpected(error)}", sys.stderr)
        return 1
    return code


def _of_system(error: OSError) -> EsperError:
    if error.errno in FORBIDDEN:
        return forbidden(error, "a file")
    is_full = error.errno in UNWRITABLE and error.filename is not None  # what is printed has no file
    return UnwritableStorage(f"{told(error)}; {how_made_writable(error)}") if is_full else EsperError(told(error))


def _fail(error: Exception) -> int:
    streams.say(plain(f"esper: {error}"), sys.stderr)
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def parser() -> Parser:
    """Every verb with its flags."""
    root = Parser(prog="esper", description=(__doc__ or "").partition("\n\n")[0], epilog=EPILOG)
    root.add_argument("--version", action="version", version=f"esper {__version__}")
    root.add_argument(FLAG, action="store_true", help="print the whole traceback of an unexpected error")
    verbs = root.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for group in GROUPS:
        group.register(verbs)
    return root


EPILOG = (__doc__ or "").partition("\n\n")[2].strip()

if __name__ == "__main__":
    sys.exit(main())
