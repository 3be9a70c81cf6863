"""`tolaria-train`: settings from flags, environment and file; one run or a comparison; one line for every error.

Exit codes: 0 done, 1 failed, 64 wrong usage, 69 halted or kept from starting by the plane's mode (acknowledge the
emergency, then --resume), 74 nothing more can be written (make room, then --resume), 75 a service can't be reached, or
another rank of the run is lost (try again; with --resume if the run had begun), 77 this user may not read or write a
file of the run, 78 a setting can't be used, 129, 130 and 143 stopped by a terminal that hung up, Ctrl-C or SIGTERM
after a checkpoint. Whether anybody takes what is printed changes nothing: the run goes on, its files say all.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

# The trainer may fork data workers; grpc's own fork handlers hang them. Read once, when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from rich.console import Console

from esper.core.errors import (
    ConfigError,
    EsperError,
    ForbiddenStorage,
    PlaneNotNormal,
    RankLost,
    ServiceUnavailable,
    UnwritableStorage,
)
from esper.core.plain import plain
from esper.core.process import streams
from esper.core.process.streams import say
from esper.core.process.unexpected import FLAG, unexpected
from esper.core.settings.config import Loaded, described, load
from esper.core.storage.files import FORBIDDEN, UNWRITABLE, forbidden, how_made_writable
from esper.kasmina.executor.memory.exhausted import first_line, is_out_of_memory
from esper.leyline import TaskType
from esper.rpc.otel import setup_tracing
from esper.tolaria.config import TrainConfig
from esper.tolaria.door.script import Context, run_script
from esper.tolaria.dry_run import dry_run
from esper.tolaria.flags import FlagParser, Paragraphs, add_settings, given
from esper.tolaria.following import follow
from esper.tolaria.loop.profiled import trace_folder
from esper.tolaria.plane.emergencies import require_not_halted
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.ranks.joining import is_told, joined
from esper.tolaria.ranks.launched import tell_launcher
from esper.tolaria.ranks.place import Place, place
from esper.tolaria.ranks.support import check_alone
from esper.tolaria.record.ending.compare import compare, table
from esper.tolaria.record.ending.summary import write_summary
from esper.tolaria.record.observer import Observer
from esper.tolaria.record.page.report import write_report
from esper.tolaria.record.shielded import Shielded
from esper.tolaria.record.terminal.display import LiveDisplay, PlainDisplay
from esper.tolaria.recovery.continuing import continued, restarted
from esper.tolaria.recovery.finished import is_unreported
from esper.tolaria.recovery.shared import tell_summary
from esper.tolaria.run import Interruption, grow, train_static
from esper.tolaria.run_dir import RunOptions, check_free, occupied
from esper.tolaria.task.data import load_splits
from esper.tolaria.task.models.models import host_widths

ENVIRONMENT_PREFIX = "TOLARIA_"
HELP = """\
Train a network and let the control plane grow it. Every flag has a default:

  tolaria-train --data digits --hidden 6,6 --run-dir runs/a           a network of its own on scikit-learn's digits
  tolaria-train --data mydata:source --model mynet:build --dry-run    checks your data and model, trains nothing
  tolaria-train --run-dir runs/a --resume                             goes on after a crash or Ctrl-C
  esper ui runs/a                                                     shows a run in the browser, live

Settings also come from --config FILE and from variables (TOLARIA_EPOCHS=40); --print-config shows what is in force."""
EXIT_USAGE, EXIT_CONFIG = 64, 78
EXIT_CODES: tuple[tuple[type[EsperError], int], ...] = (
    (ServiceUnavailable, os.EX_TEMPFAIL),
    (RankLost, os.EX_TEMPFAIL),
    (PlaneNotNormal, os.EX_UNAVAILABLE),
    (UnwritableStorage, os.EX_IOERR),
    (ForbiddenStorage, os.EX_NOPERM),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given_argv = sys.argv[1:] if argv is None else argv
    interruption = Interruption()
    streams.secure()
    try:
        return _exit_code(given_argv, interruption)
    finally:
        streams.settle()


def _exit_code(given_argv: Sequence[str], interruption: Interruption) -> int:
    try:
        launch(given_argv, interruption)
    except ConfigError as error:
        return _fail(error, EXIT_USAGE if error.key == "command line" else EXIT_CONFIG)
    except EsperError as error:
        return _fail(error, next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1))
    except OSError as error:
        return _fail(*_of_system(error))
    except KeyboardInterrupt:
        return 128 + (interruption.number or signal.SIGINT)
    except Exception as error:  # noqa: BLE001 - the edge of the process
        if FLAG in given_argv:
            say(traceback.format_exc(), sys.stderr)
        return _fail(_short_of_memory(error) if is_out_of_memory(error) else unexpected(error), 1)
    return 0 if interruption.number is None else 128 + interruption.number


def _fail(error: object, code: int) -> int:
    rank = place().rank
    is_of_all = isinstance(error, ConfigError) and error.key == "command line"  # which every rank has
    if not is_told(error) and not (rank and is_of_all):
        line = plain(f"tolaria-train: {f'rank {rank}: ' if rank else ''}{error}")
        say(line, sys.stderr)
        tell_launcher(line)
    return code


def _short_of_memory(error: Exception) -> str:
    return f"out of memory: {first_line(error)}; give a smaller network, batch_size, context or samples"


def _of_system(error: OSError) -> tuple[object, int]:
    """What the system refused, and the exit code; where nothing more can be written, what to do about it."""
    if error.errno in FORBIDDEN:
        return forbidden(error, "a file"), os.EX_NOPERM
    if error.errno not in UNWRITABLE:
        return error, 1
    place = error.filename or "a file"
    remedy = f"{how_made_writable(error)}, then give --resume if the run had begun, or choose another --run-dir"
    return f"{place} can't be written: {error.strerror}; {remedy}", os.EX_IOERR


def parser() -> FlagParser:
    """Every flag."""
    flags = FlagParser(
        prog="tolaria-train",
        usage="tolaria-train [FLAG ...]",
        description=HELP,
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=Paragraphs,
        allow_abbrev=False,
    )
    flags.add_argument(
        "--config", type=Path, metavar="FILE", help="settings in TOML; flags and TOLARIA_* override them"
    )
    flags.add_argument("--print-config", action="store_true", help="print every setting with its origin, and stop")
    flags.add_argument("--dry-run", action="store_true", help="check everything, make one step, and stop")
    flags.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint of --run-dir, with its settings"
    )
    flags.add_argument("--overwrite", action="store_true", help="replace the run that --run-dir holds")
    flags.add_argument("--compare", action="store_true", help="also train the ungrown host and static networks")
    flags.add_argument("--repeats", type=int, metavar="N", help="runs per network of --compare (default: 1)")
    flags.add_argument(
        "--demo-faults",
        action="store_true",
        help="inject a forged and a replayed command, a useless seed, and a slow Tamiyo",
    )
    flags.add_argument(
        "--train", metavar="MODULE:FUNCTION", help="run a script's function, which calls esper.train or esper.Growth"
    )
    flags.add_argument("--profile", metavar="DIR", help="trace some steps of each shape of the network, for Perfetto")
    flags.add_argument("--plain", action="store_true", help="lines instead of the live display")
    flags.add_argument(FLAG, action="store_true", help="print the whole traceback of an unexpected error")
    add_settings(flags)
    return flags


def launch(argv: Sequence[str], interruption: Interruption) -> None:
    """Do what the command line says. Raises the error tree."""
    options = parser().parse(argv)
    loaded = load(TrainConfig, file=options.config, environ=os.environ, prefix=ENVIRONMENT_PREFIX, flags=given(options))
    check_modes(options, loaded.value)
    here = place()
    if options.print_config:
        if here.rank == 0:
            say("\n".join(described(loaded)))
        return
    for flag in ("compare", "demo_faults", "dry_run"):
        if getattr(options, flag):
            check_alone("command line", f"--{flag.replace('_', '-')}", here.count)
    how = RunOptions(
        resume=options.resume,
        overwrite=options.overwrite,
        demo_faults=options.demo_faults,
        profile=trace_folder(options.profile),
    )
    if here.rank == 0:
        how = restarted(how, loaded.value.run_dir, here.restarts)
        check_free(loaded.value.run_dir, how)
    if options.dry_run:
        say(dry_run(_settings(loaded, options, how), how))
        return
    if options.train is not None:
        _script(_settings(loaded, options, how) if here.rank == 0 else loaded.value, how, options, here)
        return
    with joined(loaded.value) as ranks:
        if ranks.is_first:
            with occupied(loaded.value.run_dir):
                _train(_settings(loaded, options, how), how, options, interruption, ranks)
        else:
            follow(ranks, interruption, profile=how.profile)


def _settings(loaded: Loaded[TrainConfig], options: argparse.Namespace, how: RunOptions) -> TrainConfig:
    """The settings of the run, which are its own where it goes on."""
    config = continued(loaded) if how.resume else loaded.value
    if options.compare and config.loss is not None:
        raise ConfigError("command line", "--compare", "compares accuracies, by the built-in losses; leave --loss out")
    if options.compare and config.init_from is not None:
        raise ConfigError("command line", "--compare", "trains all networks from random weights; leave --init-from out")
    if options.compare and load_splits(config).task == TaskType.TASK_TYPE_REGRESSION:
        raise ConfigError("command line", "--compare", f"compares accuracies; {config.data} is a regression")
    return config


def _train(
    config: TrainConfig, how: RunOptions, options: argparse.Namespace, interruption: Interruption, ranks: Ranks
) -> None:
    """One run or a comparison, and its report."""
    end_tracing = setup_tracing("tolaria-train", config.otlp_endpoint)
    try:
        is_trained = how.resume and is_unreported(config) and not options.compare
        summary = {} if is_trained else _shown(config, how, options.plain, interruption, ranks)
        if is_trained:
            tell_summary(ranks, summary)
        report = write_report(config.run_dir)
        if options.compare and summary["finished"]:
            _compare(config, how, options.repeats or 1, summary, interruption)
            report = write_report(config.run_dir)
        say(f"summary: {config.run_dir / 'summary.json'}  report: {report}")
        require_not_halted(summary, config)
    finally:
        end_tracing()


def _script(config: TrainConfig, how: RunOptions, options: argparse.Namespace, here: Place) -> None:
    """A script's function, with the launcher's settings and display; of many ranks the first one shows the run."""
    with _display(options.plain) if here.rank == 0 else nullcontext(Observer()) as display:
        context = Context(config=config, callbacks=[display], resume=how.resume, overwrite=how.overwrite)
        run_script(options.train, context)
    if here.rank == 0:
        say(f"summary: {config.run_dir / 'summary.json'}  report: {config.run_dir / 'report.html'}")


def check_modes(options: argparse.Namespace, config: TrainConfig) -> None:
    """Refuse flags that exclude each other or would have no effect."""
    grows = config.grow != "never"
    checks = [
        (options.repeats is None or options.repeats >= 1, f"--repeats {options.repeats}", "must be at least 1"),
        (options.repeats is None or options.compare, "--repeats", "counts the runs of --compare; give both"),
        (not (options.resume and options.overwrite), "--resume --overwrite", "choose one"),
        (not (options.train and options.dry_run), "--train --dry-run", "a script is tried by running it: choose one"),
        (
            not (options.train and options.profile is not None),
            "--train --profile",
            "a script traces itself; give esper.train profile=",
        ),
        (not (options.train and options.compare), "--train --compare", "compares networks of the settings: choose one"),
        (
            not (options.train and options.demo_faults),
            "--train --demo-faults",
            "is for runs of the settings: choose one",
        ),
        (not (options.profile is not None and options.dry_run), "--profile --dry-run", "makes one step: choose one"),
        (grows or not options.compare, "--compare", "compares a grown network; leave --grow never out"),
        (grows or not options.demo_faults, "--demo-faults", "is for a run that may grow; leave --grow never out"),
    ]
    for holds, flags, remedy in checks:
        if not holds:
            raise ConfigError("command line", flags, remedy)


def _shown(
    config: TrainConfig, how: RunOptions, plain: bool, interruption: Interruption, ranks: Ranks
) -> dict[str, Any]:
    """One run with its display."""
    say(f"watch it live: esper ui {config.run_dir}")
    with _display(plain) as display:
        return grow(config, how, [Shielded(display, _lost)], interruption, ranks=ranks)


@contextmanager
def _display(plain: bool) -> Iterator[Observer]:
    """Lines, or the live display of a terminal."""
    begin: Callable[[], None]
    close: Callable[[], None] = _nothing
    display: Observer
    if plain or not sys.stdout.isatty():
        display = lines = PlainDisplay(sys.stdout)
        begin = lines.open
    else:
        display = live = LiveDisplay(Console())
        begin, close = live.open, live.close
    try:
        begin()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as what is shown later: the run doesn't depend on it
        _lost(error)
    try:
        yield display
    finally:
        with suppress(Exception, SystemExit):  # the terminal may be gone
            close()


def _lost(error: BaseException) -> None:
    """Say that the display failed, where that isn't its reader's going away."""
    if isinstance(error, OSError):
        streams.lose(sys.stdout, error)
    elif not isinstance(error, SystemExit):
        say(f"tolaria-train: the display failed, the run goes on: {type(error).__name__}: {error}", sys.stderr)


def _compare(
    config: TrainConfig, how: RunOptions, repeats: int, first: dict[str, Any], interruption: Interruption
) -> None:
    """Train the comparison's networks, put its table into the summary, and print it."""

    def grown(arm: TrainConfig) -> dict[str, Any]:
        if arm.seed == config.seed:
            return first
        say(f"comparison: growing from seed {arm.seed}")
        again = replace(arm, run_dir=config.run_dir / f"repeat-{arm.seed}", run_id=None)
        with occupied(again.run_dir):
            summary = grow(
                again, replace(how, tensorboard=False, profile=None, resume=False, overwrite=True), (), interruption
            )
        if not summary["finished"]:
            raise KeyboardInterrupt
        return summary

    def static(arm: TrainConfig) -> dict[str, Any]:
        widths = ",".join(map(str, host_widths(arm))) or "its own"
        say(f"comparison: static network from seed {arm.seed}, widths {widths}")
        return train_static(arm)

    result = compare(config, repeats, grown, static)
    host = next(entry for entry in result["rows"] if entry["name"] == "host, never grown")
    summary = {**first, "host_test_accuracy": host["first_test_accuracy"], "comparison": result}
    write_summary(config.run_dir / "summary.json", summary)
    say(table(result))


def _nothing() -> None:
    return


if __name__ == "__main__":
    sys.exit(main())
