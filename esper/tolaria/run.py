"""One run from settings to summary: services, link, trainer, observers, and the files that are left behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import RunContradicted, StepFailed
from esper.core.process.leaving import kept_inside, left
from esper.leyline import ModeUpdate
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.reporting.telemetry import UNHEARD, TelemetrySender
from esper.tolaria.config import TrainConfig
from esper.tolaria.growable import check_growth
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.profiled import steps_in
from esper.tolaria.loop.session import Session
from esper.tolaria.own_blueprints import own_blueprints
from esper.tolaria.plane.control import Control
from esper.tolaria.plane.emergencies import raising, require_normal
from esper.tolaria.plane.faults import FaultInjector
from esper.tolaria.plane.link import Link
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.open_control import OpenControl, Opening
from esper.tolaria.plane.plane import Plane, check_line, connected
from esper.tolaria.plane.shared_control import telling, told_artifact, told_mode
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.ranks.place import is_launched
from esper.tolaria.ranks.support import check_settings
from esper.tolaria.record.course.events import EventLog
from esper.tolaria.record.noticeboard import Noticeboard
from esper.tolaria.record.observer import Notice, Observer, Observers
from esper.tolaria.record.shielded import Shielded
from esper.tolaria.record.telemetry import TelemetryObserver
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.continuing import mark_launch
from esper.tolaria.recovery.finished import unwritten_summary
from esper.tolaria.recovery.shared import agree_on_data, call, tell_summary
from esper.tolaria.recovery.starting import keep_start, starting_weights
from esper.tolaria.run_dir import RunOptions, SummaryFile, check_free, claim
from esper.tolaria.task.feeds.feed import FedLoader
from esper.tolaria.task.given import NOTHING, Given
from esper.tolaria.task.prepare import Prepared, no_artifacts, prepare
from esper.tolaria.trainer import Steps, Trainer
from esper.tolaria.trial import Step, tried_checkpoint, try_host

if TYPE_CHECKING:
    from esper.tolaria.record.scalars import TensorBoardScalars

FAULT_DEADLINE_S = 1.0
FAULT_FREEZE_S = 3.0
TELEMETRY_CLOSE_S = 3.0
SWITCH_INTERVAL_S = 0.0005
REPLAYING_SWITCH_INTERVAL_S = 0.00001
"""Each launch of a recorded step lets go of the interpreter; had back later than a step takes, the device idles."""
STOPS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """The first Ctrl-C or SIGTERM lets the step, the checkpoint and the drain finish; the second ends at once.

    So does a terminal that hangs up, which tells it more than once: that never ends at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.tell: Callable[[], None] = lambda: None
        """Called when someone asks first, whatever the training thread waits for."""
        self._was_asked = False

    def is_set(self) -> bool:
        """Whether someone asked to stop."""
        return self.number is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            if self._was_asked:
                os._exit(128 + number)
            self._was_asked = True
        if self.number is None:
            self.number = number
            self.tell()

    def pass_on(self) -> None:
        """Raise what would have come of the signal, once everything is written."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(128 + self.number)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Catch signals inside; under nohup, which ignores it, a hang-up is none.

        Only a program's main thread can, and a notebook's kernel has handlers of its own: there nothing is caught.
        """
        if threading.current_thread() is not threading.main_thread() or "ipykernel" in sys.modules:
            yield
            return
        is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        caught = (*STOPS, *(() if is_nohup else (signal.SIGHUP,)))
        before = {number: signal.signal(number, self._note) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@kept_inside()
def grow(
    config: TrainConfig,
    options: RunOptions,
    observers: Sequence[Observer],
    interruption: Interruption,
    given: Given = NOTHING,
    note: Callable[[Prepared], None] = lambda run: None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Train under the control plane; returns the summary, which also stands in the run directory.

    The caller holds that directory (`run_dir.occupied`), for as long as it writes to it. `note` is shown what is
    trained. Of many ranks this is the first: it calls the others.
    """
    check_settings(config, ranks)
    check_free(config.run_dir, options)
    if options.resume and (summary := unwritten_summary(config)) is not None:
        tell_summary(ranks, summary)
        return _completed(config, summary, observers)
    call(ranks, config, resumes=options.resume)
    shelf = Shelf()
    start = starting_weights(config, resumes=options.resume)
    own = own_blueprints(config, resumes=options.resume)
    run = prepare(config, told_artifact(shelf.fetch, ranks), given, start=start, ranks=ranks, own=own)
    agree_on_data(run)
    note(run)
    steps = steps_in(options.profile)
    trainer_of = opened(run, shelf, options, observers, interruption, steps=steps)
    with trainer_of as trainer, interruption.watched(), kept_inside():
        summary = trainer.train(resume=options.resume)
    tell_summary(ranks, summary)
    return summary


class Shelf:
    """Where a run's artefacts come from: its control plane, once that is there."""

    def __init__(self) -> None:
        self.link: Link | None = None

    def fetch(self, digest: str) -> bytes:
        """The artefact with that digest."""
        return no_artifacts(digest) if self.link is None else self.link.fetch_artifact(digest)


@contextmanager
def opened(
    run: Prepared,
    shelf: Shelf,
    options: RunOptions,
    observers: Sequence[Observer],
    interruption: Interruption,
    *,
    steps: Callable[[Session], Steps] = ArmSteps,
    tried: Step | None = None,
) -> Iterator[Trainer]:
    """A trainer with all that a run leaves behind, and its control plane; it is to be driven to its end inside.

    `steps` makes the steps, and `tried` the two of the trials before the first, where these aren't as settings say.
    """
    config = run.config
    try_run(run, options, tried)
    claim(config.run_dir, options)
    if is_launched():
        mark_launch(config.run_dir)
    if not options.resume:
        keep_start(run)
        run.own.keep(config.run_dir)
    with ExitStack() as stack:
        # Threads of the control plane wait at most this long for the interpreter, and so does a step for them.
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(REPLAYING_SWITCH_INTERVAL_S if config.graphs else SWITCH_INTERVAL_S)
        if isinstance(run.loader, FedLoader):
            stack.callback(run.loader.close)  # an error that a notebook remembers would keep its processes
        log = stack.enter_context(EventLog(config.run_dir / "events.jsonl"))
        scalars = _scalars(config, options, stack)
        shielded = Shielded(scalars, lambda error: board.pin("tolaria.scalars_lost", f"no more scalars: {error}"))
        everyone = Observers(log, *observers, shielded)
        board = Noticeboard(everyone.on_events)
        stack.enter_context(_recorded(board, log))
        watching = Observers(SummaryFile(config.run_dir), everyone, board)
        if config.grow == "never":
            trainer = _trainer(run, lambda opening: NullControl(), watching, interruption, steps)
            yield trainer
            _agree(trainer.summary)
            return
        plane = stack.enter_context(connected(_impatient(config, options), run.run_id, board.pin, run.own))
        shelf.link = plane.link
        interruption.tell = plane.services.wake
        require_normal(plane, config, run.run_id)
        alarm = _alarm(plane, config, stack)
        told, open_control, heard = _grown(run, plane, watching, board, options, alarm, stack)
        open_control, heard = telling(open_control, run.ranks), told_mode(heard, run.ranks)
        trainer = _trainer(run, open_control, told, interruption, steps, heard)
        tell = partial(_tell_critical, told, board)
        with raising(alarm, run.run_id, tell, generation=lambda: trainer.generation, step=lambda: trainer.step):
            yield trainer
        _end(plane.link, trainer.summary, told)
        _agree(trainer.summary)


def try_run(run: Prepared, options: RunOptions, tried: Step | None) -> None:
    """What must hold before a run relies on it."""
    config = run.config
    if config.grow != "never":
        check_line(config)
        check_growth(run)
        try_host(run, tried)
    is_tried = config.grow != "never" or tried is None
    if config.checkpoint_every_epochs and not options.resume and is_tried:
        tried_checkpoint(run, tried)


def _impatient(config: TrainConfig, options: RunOptions) -> TrainConfig:
    """Where faults are injected, a slow Tamiyo is not waited for long; the run's own settings stay as they are."""
    shorter = min(config.deadline_s, FAULT_DEADLINE_S) if options.demo_faults else config.deadline_s
    return replace(config, deadline_s=shorter)


def _agree(summary: Mapping[str, Any] | None) -> None:
    """Raises RunContradicted for a run that didn't end as it was told; all files are written by now."""
    if summary is not None and summary["contradictions"]:
        raise RunContradicted("; ".join(summary["contradictions"]))


def _completed(config: TrainConfig, summary: Mapping[str, Any], observers: Sequence[Observer]) -> dict[str, Any]:
    """Write and tell what a kill after the last step kept from being written and told."""
    claim(config.run_dir, RunOptions(resume=True))
    with EventLog(config.run_dir / "events.jsonl") as log:
        Observers(SummaryFile(config.run_dir), log, *observers).on_finish(summary)
    return dict(summary)


def _grown(
    run: Prepared,
    plane: Plane,
    watching: Observer,
    board: Noticeboard,
    options: RunOptions,
    alarm: Alarm,
    stack: ExitStack,
) -> tuple[Observer, OpenControl, Callable[[], ModeUpdate]]:
    """Who hears of a run that may grow, how its control plane is opened, and what is heard of that plane's mode."""
    services = plane.services
    sender = TelemetrySender(
        services.endpoints["weatherlight"], plane.keyring, "tolaria", tls=services.tls("weatherlight")
    )
    stack.callback(sender.close, TELEMETRY_CLOSE_S)
    telemetry = TelemetryObserver(sender, SYSTEM_CLOCK, alarm, is_profiled=options.profile is not None)
    board.tell_too(telemetry.on_events)
    told: Observer = Observers(watching, telemetry)
    open_control = _telling_refused_slots(plane.link, told)
    if options.demo_faults:
        injector = _injector(plane, told)
        told, open_control = Observers(told, injector), injector.around(open_control)
    return told, open_control, lambda: sender.plane


def _tell_critical(told: Observer, board: Noticeboard, name: str, message: str) -> None:
    told.on_events([Notice(step=board.step or 0, name=name, level="CRITICAL", message=message)])


def _alarm(plane: Plane, config: TrainConfig, stack: ExitStack) -> Alarm:
    """The trainer's own, whose emergencies wait in the run's directory."""
    services, directory = plane.services, config.run_dir / "services" / "alarms" / "tolaria"
    endpoint, tls = services.endpoints["weatherlight"], services.tls("weatherlight")
    alarm = Alarm(endpoint, plane.keyring, SYSTEM_CLOCK, "tolaria", directory, tls)
    stack.callback(alarm.close, TELEMETRY_CLOSE_S)
    return alarm


def _end(link: Link, summary: Mapping[str, Any] | None, told: Observer) -> None:
    """Tell the services of a finished run."""
    if summary is None or not summary["finished"]:
        return
    step = summary["steps"]
    if failure := link.finish(step, "finished"):
        told.on_events([Notice(step=step, name="tolaria.close_failed", level="WARNING", message=failure)])


def _telling_refused_slots(link: Link, told: Observer) -> OpenControl:
    def open_control(opening: Opening) -> Control:
        control = link.open_control(opening)
        for slot_id, reason in link.opened.refused_slots:
            message = f"slot {slot_id} stays closed: {reason}"
            told.on_events([Notice(step=opening.step, name="tolaria.slot_refused", level="WARNING", message=message)])
        return control

    return open_control


@contextmanager
def _recorded(board: Noticeboard, log: EventLog) -> Iterator[None]:
    """What ends a run that had begun is its last event."""
    try:
        yield
    except BaseException as error:
        if board.step is not None:
            step = error.step if isinstance(error, StepFailed) else board.step
            log.write("failure", step=step, name="tolaria.run_failed", detail=_cause(error))
        raise
    finally:
        board.pass_on()


def _cause(error: BaseException) -> str:
    said = left(error) if isinstance(error, SystemExit) else error
    return str(said) or type(said).__name__


def _scalars(config: TrainConfig, options: RunOptions, stack: ExitStack) -> Observer:
    if not options.tensorboard:
        return Observer()
    from esper.tolaria.record.scalars import TensorBoardScalars  # costs a second to import

    scalars = TensorBoardScalars(config.run_dir / "tensorboard")
    stack.callback(_close, scalars)
    return scalars


def _close(scalars: TensorBoardScalars) -> None:
    with suppress(OSError):  # a full disk was told when it filled
        scalars.close()


@kept_inside()
def train_static(config: TrainConfig) -> dict[str, Any]:
    """Train without growth, services or files; returns the summary."""
    return Trainer(prepare(config), lambda opening: NullControl(), Observers()).train()


def _trainer(
    run: Prepared,
    open_control: OpenControl,
    observer: Observer,
    interruption: Interruption,
    steps: Callable[[Session], Steps],
    heard: Callable[[], ModeUpdate] = lambda: UNHEARD,
) -> Trainer:
    store = CheckpointStore(run.config.run_dir / "checkpoints", run.config.keep_checkpoints)
    return Trainer(
        run,
        open_control,
        observer,
        store=store,
        should_stop=lambda: run.ranks.any(interruption.is_set()),
        steps=steps,
        plane=heard,
    )


def _injector(plane: Plane, told: Observer) -> FaultInjector:
    return FaultInjector(
        lambda: plane.link.opened.kasmina,
        plane.keyring,
        SYSTEM_CLOCK,
        tamiyo_pid=lambda: plane.services.pid("tamiyo"),
        freeze_s=FAULT_FREEZE_S,
        tell=told.on_events,
    )
