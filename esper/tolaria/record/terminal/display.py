"""What a person sees while a run trains: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from esper.core.clock import NS_PER_S, SYSTEM_CLOCK, Clock
from esper.core.counted import counted
from esper.core.enums import short_name
from esper.core.plain import plain, plain_lines
from esper.leyline import CommandOutcome, DirectiveKind
from esper.tolaria.record.course.events import gate_fields, rationale_of, transition_fields
from esper.tolaria.record.growth_reason import Reason
from esper.tolaria.record.history import OPERATOR
from esper.tolaria.record.observer import Boundary, EpochDone, Notice, Observer, RunStarted, StepDone
from esper.tolaria.record.terminal.depth_words import became, missed
from esper.tolaria.record.terminal.loss_history import LossHistory
from esper.tolaria.record.terminal.screen import STARTING, in_words, living, of_plane, screen

REFRESH_NS = NS_PER_S // 4
LINE_INTERVAL_NS = 5 * NS_PER_S
# A reason that lasts is told again so often, with its numbers of then.
REASON_INTERVAL_NS = 60 * NS_PER_S
# A seed's life is shown by itself, and so is the command that begins one.
SHOWN_OTHERWISE = ("SEED_ALIVE", "PLATEAU", "FORCED", "GATE_PASSED", "GATE_FAILED")
LEVEL_STYLE = {"INFO": "cyan", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}


class State:
    """The newest figures, shared by both displays."""

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.step: StepDone | None = None
        self.boundary: Boundary | None = None
        self.epoch: EpochDone | None = None
        self.waits: Reason | None = None
        """Why nothing grows now; None where growth speaks for itself."""
        self.history = LossHistory()
        self._times_ms: deque[float] = deque(maxlen=50)
        self._told: set[str] = set()
        """Commands that were told: what a rollback replays is given again, and is no news."""

    def note_steps(self, steps: Sequence[StepDone]) -> None:
        self.step = steps[-1] if steps else self.step
        self._times_ms.extend(done.step_ms for done in steps)

    def note_boundary(self, boundary: Boundary) -> list[str]:
        """Take a boundary; returns what happened there, in words."""
        self.boundary = boundary
        self.history.add(boundary.packet.metrics.smoothed_loss)
        before, now = self.waits, boundary.reason
        self.waits = None if now is None or now.name in SHOWN_OTHERWISE or _acts(boundary) else now
        if self.waits is None or (before is not None and before.name == self.waits.name):
            return happenings(boundary, self._told)
        return [*happenings(boundary, self._told), plain(f"no growth: {self.waits.in_words()}")]

    @property
    def step_ms(self) -> float:
        """Median of the last fifty steps."""
        times = sorted(self._times_ms)
        return times[len(times) // 2] if times else 0.0

    def line(self) -> str:
        """The run in one line."""
        parts = []
        if self.started and self.step:
            parts.append(f"step {self.step.step}/{self.started.total_steps}")
        if self.boundary:
            parts.append(f"loss {self.boundary.packet.metrics.smoothed_loss:.4f}")
        if self.epoch and self.epoch.validation_accuracy is not None:
            parts.append(f"accuracy {100 * self.epoch.validation_accuracy:.2f} %")
        if self.epoch:
            parts += in_words(dict(self.epoch.validation_metrics))
        if self.boundary:
            parts.append(f"{self.boundary.packet.metrics.parameters:,} parameters")
            parts += [f"{seed.seed_id} {seed.standing} alpha {seed.alpha:.2f}" for seed in living(self.boundary.seeds)]
            parts.append(f"mode {self.boundary.mode}{of_plane(self.boundary)}")
        parts.append(f"{self.step_ms:.2f} ms/step")
        return plain("  ".join(parts))


def _acts(boundary: Boundary) -> bool:
    """Whether the reason of now is a command's: some reasons, such as SCHEDULED, are given for waiting too."""
    decision = None if boundary.result is None else boundary.result.decision
    return decision is not None and len(decision.command_ids) > 0


class PlainDisplay(Observer):
    """Observer that prints a line every few seconds and one for every event worth knowing."""

    def __init__(self, stream: TextIO, clock: Clock = SYSTEM_CLOCK) -> None:
        self._stream = stream
        self._clock = clock
        self._state = State()
        self._line_due_ns = 0
        self._reason_due_ns = 0

    def _print(self, text: str) -> None:
        print(plain_lines(text), file=self._stream, flush=True)

    def open(self) -> None:
        """Say what a run does before its first event, which may take a while."""
        self._print(STARTING)

    def on_start(self, started: RunStarted) -> None:
        self._state.started = started
        self._print(opening(started))

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        self._state.note_steps(steps)

    def on_boundary(self, boundary: Boundary) -> None:
        before = self._state.waits
        for text in self._state.note_boundary(boundary):
            self._print(f"step {boundary.step}  {text}")
        now_ns = self._clock.monotonic_ns()
        waits = self._state.waits
        if waits is not None and (before is None or before.name != waits.name):
            self._reason_due_ns = now_ns + REASON_INTERVAL_NS
        if now_ns >= self._line_due_ns:
            self._line_due_ns = now_ns + LINE_INTERVAL_NS
            self._print(self._state.line())
        if waits is not None and now_ns >= self._reason_due_ns:
            self._reason_due_ns = now_ns + REASON_INTERVAL_NS
            self._print(plain(f"step {boundary.step}  no growth: {waits.with_since()}"))

    def on_events(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._print(in_line(notice))

    def on_epoch(self, done: EpochDone) -> None:
        self._state.epoch = done

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self._print(closing(summary))


class LiveDisplay(Observer):
    """Observer that keeps one table on the terminal, with the events scrolling above it."""

    def __init__(self, console: Console, clock: Clock = SYSTEM_CLOCK) -> None:
        self._console = console
        self._clock = clock
        self._state = State()
        self._progress = Progress(
            TextColumn("step {task.completed:,}/{task.total:,}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=0)
        self._live = Live(self._render(), console=console, auto_refresh=False, transient=True)
        self._refresh_due_ns = 0

    def open(self) -> None:
        """Take the terminal: what a run does before its first event may take a while."""
        self._live.start(refresh=True)

    def on_start(self, started: RunStarted) -> None:
        self._state.started = started
        self._console.print(Text(opening(started)))
        self._progress.update(self._task, total=started.total_steps, completed=started.step)
        self._live.start()
        self._live.update(self._render(), refresh=True)

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        self._state.note_steps(steps)

    def on_boundary(self, boundary: Boundary) -> None:
        for text in self._state.note_boundary(boundary):
            line = Text.assemble((f"step {boundary.step}  ", "dim"), text)
            self._live.console.print(line)
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._refresh_due_ns:
            self._refresh_due_ns = now_ns + REFRESH_NS
            self._progress.update(self._task, completed=boundary.step)
            self._live.update(self._render(), refresh=True)

    def on_events(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            style = LEVEL_STYLE.get(notice.level, "white")
            self._live.console.print(Text(in_line(notice), style=style))

    def on_epoch(self, done: EpochDone) -> None:
        self._state.epoch = done

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self._live.stop()
        self._console.print(Text(closing(summary)))

    def close(self) -> None:
        """Give the terminal back; also after an error."""
        self._live.stop()

    def _render(self) -> Group:
        """What stands on the terminal now; before the run begins, what it waits for."""
        state = self._state
        if state.started is None:
            return Group(Text(STARTING, style="dim"))
        if state.boundary is None:
            return Group(self._progress)
        size = self._console.width, self._console.height
        lines = screen(state.boundary, state.epoch, state.history, state.step_ms, size)
        return Group(self._progress, *lines)


def opening(started: RunStarted) -> str:
    """The first lines of a run."""
    splits = ", ".join(f"{count:,} {name}" for name, count in started.splits.items())
    verb = f"resumes at step {started.step:,}" if started.is_resumed else "starts"
    steps = f"{counted(started.total_steps, 'step')}, {started.parameters:,} parameters, {splits}"
    return "\n".join(map(plain, (f"run {started.run_id} {verb}: {steps}", f"task: {started.task}")))


def in_line(notice: Notice) -> str:
    """A notice in one line; its level is a word, for those who see no colours."""
    return plain(f"step {notice.step}  {notice.level.lower()}: {notice.message}")


def happenings(boundary: Boundary, told: set[str]) -> list[str]:
    """What growth did at this boundary, in words; of commands those that were not `told` yet, which then are."""
    if boundary.result is None:
        return []
    texts = []
    for fields in map(transition_fields, boundary.result.transitions):
        texts.append(f"{fields['seed_id']} {fields['from_stage']} -> {fields['to_stage']}: {fields['reason']}")
    for fields in map(gate_fields, boundary.result.gates):
        if fields["gate"] == "G4_SYSTEM_IMPACT" or fields["verdict"] == "FAIL":
            texts.append(f"{fields['seed_id']} {fields['gate']} {fields['verdict'].lower()}: {fields['detail']}")
    news = [outcome for outcome in boundary.result.outcomes if outcome.command_id not in told]
    told.update(outcome.command_id for outcome in news)
    texts += filter(None, map(_command_in_words, news))
    return [plain(text) for text in texts]


def _command_in_words(outcome: CommandOutcome) -> str:
    """A refused command, or an operator's; what a policy orders shows by what the seeds do."""
    if not outcome.accepted:
        return f"command {outcome.command_id} refused: {outcome.detail}"
    if not outcome.issued_by.startswith(OPERATOR):
        return ""
    kinds = [short_name(DirectiveKind, directive.kind).replace("_", " ").lower() for directive in outcome.directives]
    why = rationale_of(outcome)
    return f"{outcome.issued_by} ordered {', '.join(kinds) or outcome.command_id}" + (f": {why}" if why else "")


def closing(summary: Mapping[str, Any]) -> str:
    """The last lines of a run."""
    growth = summary["growth"]
    stopped = f"stopped at step {summary['steps']:,} of {summary['total_steps']:,}; --resume goes on"
    lines = [
        _tested(summary),
        f"seeds: {growth['germinated']} germinated, {growth['judged']} judged, {growth['kept']} kept; "
        f"{summary['host_parameters']:,} -> {summary['final_parameters']:,} parameters"
        + "".join(f", {grown}" for grown in became(summary)),
        *([missed_depth] if (missed_depth := missed(summary)) else ()),
        f"reproducible: {promise(summary)}; weights {summary['weights_digest'][:16]}",
    ]
    return "\n".join(map(plain, lines if summary["finished"] else [stopped, *lines]))


def _tested(summary: Mapping[str, Any]) -> str:
    """The test figures; an accuracy that needs no network is told as that."""
    return "  ".join([_test_figure(summary), *in_words(summary.get("test_metrics"))])


def _test_figure(summary: Mapping[str, Any]) -> str:
    accuracy = summary["test_accuracy"]
    if accuracy is None:
        return f"test loss {summary['test_loss']:.4f}"
    # Summaries of earlier versions don't have it.
    largest = summary.get("test_largest_class")
    tested = f"test accuracy {100 * accuracy:.2f} %"
    if largest is None or accuracy > largest:
        return tested
    return f"{tested}, no better than always naming the largest class: {100 * largest:.2f} %"


def promise(summary: Mapping[str, Any]) -> str:
    """Whether the same settings give the same weights again, and where: others round otherwise."""
    if summary["reproducible"]:
        return f"yes, on {summary['machine']}"
    return f"no: {summary['reproducible_cause']}"
