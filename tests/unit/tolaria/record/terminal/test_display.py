"""Both displays: what they say, when, and in which order; and that the terminal is given back."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from esper.core.clock import ManualClock
from esper.leyline import (
    CommandOutcome,
    Decision,
    DirectiveKind,
    GateEvidence,
    GateVerdict,
    RejectionReason,
    SeedDirective,
    SeedGate,
    SeedStage,
    StageTransition,
)
from esper.tolaria.record.growth_reason import Reason
from esper.tolaria.record.observer import Notice, Observer
from esper.tolaria.record.packet_result import PacketResult
from esper.tolaria.record.terminal.display import LiveDisplay, PlainDisplay, closing
from esper.tolaria.record.terminal.screen import living, seed_table
from tests.unit.tolaria.observed import boundary, epoch_done, seed_view, started, step_done

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
SUMMARY: dict[str, Any] = {
    "finished": True,
    "steps": 1000,
    "total_steps": 1000,
    "test_accuracy": 0.95625,
    "test_loss": 0.125,
    "test_largest_class": 0.5,
    "growth": {"germinated": 3, "judged": 2, "kept": 1},
    "host_parameters": 502,
    "final_parameters": 1270,
    "reproducible": True,
    "reproducible_cause": None,
    "machine": "x86_64 AVX2, torch 2.9.0",
    "weights_digest": "0123456789abcdef0123",
}
GROWTH = PacketResult(
    packet_index=1,
    outcomes=(
        CommandOutcome(command_id="c1", accepted=True),
        CommandOutcome(
            command_id="c2",
            accepted=False,
            rejection=RejectionReason.REJECTION_REASON_BUDGET_EXCEEDED,
            detail="over the budget",
        ),
    ),
    transitions=(
        StageTransition(
            seed_id="s1",
            from_stage=SeedStage.SEED_STAGE_DORMANT,
            to_stage=SeedStage.SEED_STAGE_GERMINATED,
            reason="germinated as span.linear",
        ),
    ),
    gates=(
        GateEvidence(
            seed_id="s1", gate=SeedGate.SEED_GATE_G0_SANITY, verdict=GateVerdict.GATE_VERDICT_PASS, detail="sound"
        ),
        GateEvidence(
            seed_id="s1", gate=SeedGate.SEED_GATE_G2_STABILITY, verdict=GateVerdict.GATE_VERDICT_FAIL, detail="rises"
        ),
        GateEvidence(
            seed_id="s1",
            gate=SeedGate.SEED_GATE_G4_SYSTEM_IMPACT,
            verdict=GateVerdict.GATE_VERDICT_EXTEND,
            detail="undecided",
        ),
    ),
)


def tell_a_run(display: Observer) -> None:
    display.on_start(started())
    display.on_steps([step_done(10, step_ms=1.5)])
    display.on_boundary(boundary(10, seeds=[seed_view(), seed_view("s0", stage="DORMANT", alpha=0.0)]))
    display.on_boundary(boundary(20, result=GROWTH))
    display.on_events([Notice(step=25, name="tolaria.rollback", level="ERROR", message="back to step 20")])
    display.on_epoch(epoch_done(1, 100))
    display.on_finish(SUMMARY)


def plain(clock: ManualClock | None = None) -> tuple[PlainDisplay, io.StringIO]:
    stream = io.StringIO()
    return PlainDisplay(stream, clock or ManualClock()), stream


def live(clock: ManualClock | None = None) -> tuple[LiveDisplay, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, height=40, color_system=None, legacy_windows=False)
    return LiveDisplay(console, clock or ManualClock()), stream


def test_a_plain_run_reads_from_top_to_bottom() -> None:
    display, stream = plain()
    tell_a_run(display)
    assert stream.getvalue().splitlines() == [
        "run r starts: 1,000 steps, 502 parameters, 1,150 train, 356 judge, 291 test",
        "task: classification, 10 classes, smallest 111",
        "step 10/1000  loss 0.2500  1,234 parameters  s1 BLENDING alpha 0.50  mode normal  1.50 ms/step",
        "step 20  s1 DORMANT -> GERMINATED: germinated as span.linear",
        "step 20  s1 G2_STABILITY fail: rises",
        "step 20  s1 G4_SYSTEM_IMPACT extend: undecided",
        "step 20  command c2 refused: over the budget",
        "step 25  error: back to step 20",
        "test accuracy 95.62 %",
        "seeds: 3 germinated, 2 judged, 1 kept; 502 -> 1,270 parameters",
        "reproducible: yes, on x86_64 AVX2, torch 2.9.0; weights 0123456789abcdef",
    ]


def test_the_last_lines_say_how_deep_the_network_became() -> None:
    stage = {"from": 2, "to": 4, "others": 1}
    deeper = {**SUMMARY, "depths": {"encoder": {"from": 3, "to": 5, "others": 0}, "layer2": stage}}
    line = closing(deeper).splitlines()[1]
    assert line.endswith(
        "502 -> 1,270 parameters, stack:encoder 3 -> 5 equal blocks, stack:layer2 2 -> 4 equal blocks, beside 1 other"
    )


def test_the_last_lines_say_why_a_wanted_depth_was_not_reached() -> None:
    missed = {"wanted": 8, "got": {"stack:encoder": 4}, "reason": "s2 was culled: look 2: z = 0.31 against 2.71"}
    line = "wanted depth 8, got 4: s2 was culled: look 2: z = 0.31 against 2.71"
    assert closing({**SUMMARY, "depth_shortfall": missed}).splitlines()[2] == line
    several = {**missed, "got": {"stack:encoder": 4, "stack:decoder": 2}}
    assert "wanted depth 8, got 4 in stack:encoder, 2 in stack:decoder: s2" in closing(
        {**SUMMARY, "depth_shortfall": several}
    )


def test_a_plain_line_comes_every_five_seconds_with_the_newest_figures() -> None:
    clock = ManualClock()
    display, stream = plain(clock)
    display.on_start(started())
    for step in range(10, 130, 10):
        display.on_steps([step_done(step)])
        display.on_boundary(boundary(step))
        clock.advance(1.0)
        if step == 50:
            display.on_epoch(epoch_done(1, 50))
    lines = stream.getvalue().splitlines()[2:]
    assert [line.partition("/")[0] for line in lines] == ["step 10", "step 60", "step 110"]
    assert "accuracy 75.00 %" in lines[1]


def test_why_nothing_grows_is_told_at_each_change_and_a_living_seed_speaks_for_itself() -> None:
    display, stream = plain()
    display.on_start(started())
    course = (
        (10, "STILL_IMPROVING", "the loss falls by 70.00%"),
        (20, "STILL_IMPROVING", "the loss falls by 65.00%"),
        (30, "PLATEAU", "the loss falls by 59.00%"),
        (40, "SEED_ALIVE", "seed s1 is BLENDING"),
        (50, "GROWTH_ENDED", "2 culls in a row"),
        (60, "GROWTH_ENDED", "2 culls in a row"),
    )
    for step, name, detail in course:
        why = Reason(name=name, detail=detail, since_step=step)
        display.on_boundary(boundary(step, result=PacketResult(packet_index=1), reason=why))
    assert [line for line in stream.getvalue().splitlines() if "growth" in line] == [
        "step 10  no growth: still improving: the loss falls by 70.00%",
        "step 50  no growth: growth ended: 2 culls in a row",
    ]


def test_a_command_is_no_reason_not_to_grow_though_waiting_has_one_of_the_same_name() -> None:
    display, stream = plain()
    display.on_start(started())
    ordered = Decision(command_ids=["c3"])
    course = (
        (10, "EMBARGO", "closed until step 235", None),
        (20, "SCHEDULED", "stack 2 of 2 was due from step 200 on", ordered),
        (30, "SCHEDULED", "stack 2 of 2 is due at step 400", Decision()),
    )
    for step, name, detail, decision in course:
        why = Reason(name=name, detail=detail, since_step=step)
        display.on_boundary(boundary(step, result=PacketResult(packet_index=1, decision=decision), reason=why))
    assert [line for line in stream.getvalue().splitlines() if "growth" in line] == [
        "step 10  no growth: embargo: closed until step 235",
        "step 30  no growth: scheduled: stack 2 of 2 is due at step 400",
    ]


def test_an_operators_order_is_told_with_its_rationale() -> None:
    display, stream = plain()
    display.on_start(started())
    pause = SeedDirective(
        directive_id="d", kind=DirectiveKind.DIRECTIVE_KIND_PAUSE_GROWTH, rationale="new data at noon"
    )
    order = CommandOutcome(command_id="op-1", accepted=True, issued_by="operator:ada", directives=[pause])
    own = CommandOutcome(command_id="c1", accepted=True, issued_by="tamiyo")
    display.on_boundary(boundary(10, result=PacketResult(packet_index=1, outcomes=(own, order))))
    assert "step 10  operator:ada ordered pause growth: new data at noon\n" in stream.getvalue()
    display.on_boundary(boundary(10, result=PacketResult(packet_index=2, outcomes=(order,))))
    assert stream.getvalue().count("operator:ada ordered") == 1, "what a rollback replays is no news"
    assert "c1" not in stream.getvalue()


def test_metrics_are_told_with_the_other_figures_and_at_the_end() -> None:
    clock = ManualClock()
    display, stream = plain(clock)
    display.on_start(started())
    display.on_epoch(epoch_done(1, 18, validation_accuracy=None, validation_metrics={"R2": 0.5, "MAE": 1.25}))
    clock.advance(6.0)
    display.on_steps([step_done(19)])
    display.on_boundary(boundary(20))
    assert "R2 0.5  MAE 1.25" in stream.getvalue()
    last = closing({**SUMMARY, "test_accuracy": None, "test_metrics": {"R2": 0.8125}})
    assert "test loss 0.1250  R2 0.8125" in last


def test_the_live_table_shows_the_reason_of_now() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display = LiveDisplay(console)
    display.on_start(started())
    why = Reason(name="SATURATED", detail="99.50% are right", since_step=10)
    display.on_boundary(boundary(10, result=PacketResult(packet_index=1), reason=why))
    display.close()
    assert "growth: saturated: 99.50% are right" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_step_time_is_the_median_of_the_last_fifty() -> None:
    clock = ManualClock()
    display, stream = plain(clock)
    display.on_start(started())
    for step, step_ms in enumerate([100.0] * 60 + [1.0] * 26 + [9.0] * 24):
        display.on_steps([step_done(step, step_ms=step_ms)])
    display.on_boundary(boundary(110))
    assert "1.00 ms/step" in stream.getvalue()


def test_the_live_display_scrolls_what_happened_above_its_table() -> None:
    display, stream = live()
    tell_a_run(display)
    text = stream.getvalue()
    for words in ("step 20  s1 G2_STABILITY fail: rises", "command c2 refused", "step 25  error: back to step 20"):
        assert words in text
    assert "s1    span.linear  span_linear:fc1-fc2  BLENDING  ████     0.50" in text
    assert text.index("run r starts") < text.index("step 10/1,000") < text.index("test accuracy 95.62 %")


def test_the_live_display_is_drawn_a_few_times_a_second_however_short_the_steps() -> None:
    clock = ManualClock()
    display, stream = live(clock)
    display.on_start(started())
    for step in range(10, 110, 10):
        display.on_boundary(boundary(step))
        clock.advance(0.1)
    assert [step for step in range(10, 110, 10) if f"step {step}/1,000" in stream.getvalue()] == [10, 40, 70, 100]
    display.close()


def test_a_resumed_run_starts_its_progress_where_it_goes_on() -> None:
    display, stream = live()
    display.on_start(started(step=500, is_resumed=True))
    assert "run r resumes at step 500" in stream.getvalue()
    assert "step 500/1,000" in stream.getvalue()
    assert "50%" in stream.getvalue()
    display.close()


@pytest.mark.parametrize("has_started", [False, True])
def test_the_terminal_is_given_back_after_an_error(has_started: bool) -> None:
    display, stream = live()
    if has_started:
        display.on_start(started())
        assert stream.getvalue().rfind(HIDE_CURSOR) > stream.getvalue().rfind(SHOW_CURSOR)
    display.close()
    assert stream.getvalue().rfind(SHOW_CURSOR) >= stream.getvalue().rfind(HIDE_CURSOR)


def test_names_are_shown_as_they_are_and_never_taken_for_markup() -> None:
    display, stream = live()
    display.on_start(started(run_id="[red]a:fire:"))
    display.on_boundary(boundary(10, seeds=[seed_view(slot_id="[bold]x[/bold]")]))
    display.on_events([Notice(step=10, name="n", level="WARNING", message="[blink]lost")])
    display.close()
    for words in ("[red]a:fire:", "[bold]x[/bold]", "[blink]lost"):
        assert words in stream.getvalue()


def test_seeds_on_their_way_are_living_and_others_not() -> None:
    stages = ["DORMANT", "GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED", "CULLED"]
    assert [seed.stage for seed in living([seed_view(stage=stage) for stage in stages])] == stages[1:6]


def test_the_table_gives_a_gain_with_its_error_once_it_was_measured() -> None:
    console = Console(file=io.StringIO(), width=120)
    seeds = [seed_view("s1", stage="FOSSILIZED", gain=0.05, gain_standard_error=0.01), seed_view("s2")]
    console.print(seed_table(seeds))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "+0.0500 ± 0.0100" in text
    assert text.count("±") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"test_accuracy": None, "test_largest_class": None}, "test loss 0.1250"),
        ({"test_accuracy": 0.5}, "test accuracy 50.00 %, no better than always naming the largest class: 50.00 %"),
        ({"test_largest_class": 0.999}, "95.62 %, no better than always naming the largest class: 99.90 %"),
        ({"reproducible": False, "reproducible_cause": "an answer missed its deadline"}, "no: an answer missed"),
        ({"finished": False, "steps": 710}, "stopped at step 710 of 1,000; --resume goes on"),
    ],
)
def test_the_last_lines_say_how_it_ended(change: dict[str, Any], words: str) -> None:
    assert words not in closing(SUMMARY)
    assert words in closing({**SUMMARY, **change})


def test_a_summary_of_an_earlier_version_tells_its_accuracy_alone() -> None:
    earlier = {key: value for key, value in SUMMARY.items() if key != "test_largest_class"}
    assert closing(earlier) == closing(SUMMARY)


def test_a_reason_that_lasts_is_told_again_with_its_numbers_of_now() -> None:
    clock = ManualClock()
    display, stream = plain(clock)
    display.on_start(started())
    for step in range(10, 1310, 10):
        why = Reason(name="WARMING_UP", detail=f"step {step} of 5000", since_step=10)
        display.on_boundary(boundary(step, result=PacketResult(packet_index=1), reason=why))
        clock.advance(1.0)
    assert [line for line in stream.getvalue().splitlines() if "growth" in line] == [
        "step 10  no growth: warming up: step 10 of 5000",
        "step 610  no growth: warming up: step 610 of 5000 (since step 10)",
        "step 1210  no growth: warming up: step 1210 of 5000 (since step 10)",
    ]


@pytest.mark.parametrize(
    ("width", "has_gain", "has_blueprint"), [(120, True, True), (80, True, False), (40, False, False)]
)
def test_a_narrow_table_drops_columns_and_neither_a_slots_end_nor_an_alpha(
    width: int, has_gain: bool, has_blueprint: bool
) -> None:
    slots = [f"span_linear:blocks.{number}.mlp.fc1-blocks.{number}.mlp.fc2" for number in (0, 1)]
    seeds = [
        seed_view(f"s{number}", stage="PROBATIONARY", slot_id=slot, alpha=0.55, gain=0.05, gain_standard_error=0.01)
        for number, slot in enumerate(slots)
    ]
    console = Console(file=io.StringIO(), width=width)
    console.print(seed_table(seeds, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert ("gain" in text, "span.linear" in text) == (has_gain, has_blueprint)
    assert text.count("PROBATIONARY") == text.count("0.55") == 2
    assert "…" not in text
    rows = text.split(" s1 ")
    assert len(rows) == 2
    assert "0" in rows[0].partition("blocks.")[2][:1]
    assert "1" in rows[1].partition("blocks.")[2][:1]


HOSTILE = "\x1b[2J\x07\nstep 9  info: forged [red]\u202e"


def hostile_growth() -> PacketResult:
    """Ids and reasons as somebody may send them."""
    refused = CommandOutcome(command_id=HOSTILE, accepted=False, detail=HOSTILE)
    moved = StageTransition(seed_id=HOSTILE, reason=HOSTILE)
    failed = GateEvidence(
        seed_id=HOSTILE,
        gate=SeedGate.SEED_GATE_G2_STABILITY,
        verdict=GateVerdict.GATE_VERDICT_FAIL,
        detail=HOSTILE,
    )
    return PacketResult(packet_index=1, outcomes=(refused,), transitions=(moved,), gates=(failed,))


@pytest.mark.parametrize("is_live", [False, True], ids=["plain", "live"])
def test_nothing_that_is_shown_acts_on_the_terminal(is_live: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=200, color_system=None, force_terminal=False)
    shown: Observer = LiveDisplay(console, ManualClock()) if is_live else PlainDisplay(stream, ManualClock())
    shown.on_start(replace(started(), run_id=HOSTILE, task=HOSTILE))
    seeds = (replace(seed_view(), seed_id=HOSTILE, slot_id=HOSTILE, blueprint_id=HOSTILE, stage="TRAINING"),)
    shown.on_steps([step_done(10)])
    reason = Reason(name=HOSTILE, detail=HOSTILE, since_step=1)
    shown.on_boundary(replace(boundary(10), result=hostile_growth(), seeds=seeds, mode=HOSTILE, reason=reason))
    shown.on_events([Notice(step=10, level="ERROR", name=HOSTILE, message=HOSTILE)])
    shown.on_finish({**SUMMARY, "machine": HOSTILE, "test_metrics": {HOSTILE: 1.0}})
    if isinstance(shown, LiveDisplay):
        shown.close()
    told = stream.getvalue()
    assert "forged" in told
    assert all(character == "\n" or character.isprintable() for character in told)
    assert not [line for line in told.splitlines() if line.startswith("step 9")]
