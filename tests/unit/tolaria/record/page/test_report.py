"""The report's page from a summary and events that were made by hand."""

from __future__ import annotations

import json
from typing import Any

from esper.tolaria.record.page.report import DRAWN, page
from esper.tolaria.record.page.view import view
from tests.unit.tolaria.record.page.test_layers import blocks, layer, told

SUMMARY: dict[str, Any] = {
    "run_id": "r",
    "data": "digits",
    "task": "language_model, judged by 7 documents",
    "seed": 1,
    "epochs": 1,
    "steps": 20,
    "test_accuracy": 0.9,
    "host_parameters": 502,
    "final_parameters": 502,
    "growth": {"germinated": 0, "judged": 0, "kept": 0},
    "training_macs": 100_000_000,
    "training_macs_by_use": {"main": 75_000_000, "twin": 25_000_000, "side": 0, "undone": 0},
    "step_ms": {"p50": 1.0, "p95": 2.0},
    "reproducible": True,
    "machine": "x86_64 AVX2, torch 2.9.0",
    "seeds": [],
}


def boundary(step: int, wait_ms: float = 0.1) -> dict[str, Any]:
    timings = {"step_ms": 1.0, "wait_ms": wait_ms}
    return {"kind": "boundary", "step": step, "loss": 1.0, "smoothed_loss": 1.0, "seeds": [], "timings": timings}


def test_the_cards_tell_what_growth_and_surgery_cost() -> None:
    text = page({**SUMMARY, "surgery_share": 0.125}, [boundary(10)])
    assert "25% of them for growth" in text
    assert "12.50 %" in text
    assert "gradient surgery" in text
    assert "gradient surgery" not in page({**SUMMARY, "surgery_share": None}, [boundary(10)])
    told = page({**SUMMARY, "gradient_conflict_rate": 0.5}, [boundary(10)])
    assert "<b>50.00 %</b><span>of pairs of gradients" in told


def test_a_card_tells_each_metric_under_its_name() -> None:
    text = page({**SUMMARY, "test_accuracy": None, "test_metrics": {"R2": 0.8125, "MAE": 3.0}}, [boundary(10)])
    assert "<b>0.8125</b><span>test R2</span>" in text
    assert "<b>3</b><span>test MAE</span>" in text


def test_the_page_says_why_a_run_ended_early_and_what_other_weights_reach() -> None:
    found = {"ended_early": "no lower loss & so on", "ema": {"test_accuracy": 0.5, "test_loss": 1.0}}
    text = page({**SUMMARY, **found, "best": {"test_accuracy": None, "test_loss": 0.25}}, [boundary(10)])
    assert "Ended early: no lower loss &amp; so on." in text
    assert "<span>test accuracy of the average</span>" in text
    assert "<b>0.25</b><span>test loss of the best epoch</span>" in text
    told_without = page({**SUMMARY, "ended_early": None, "ema": None, "best": {"epoch": 3}}, [boundary(10)])
    assert not any(words in told_without for words in ("Ended early", "of the average", "of the best epoch"))


def test_the_page_says_what_was_learnt_and_what_judged_it() -> None:
    assert "language_model, judged by 7 documents" in page(SUMMARY, [boundary(10)])


def test_the_page_says_how_deep_the_network_became_and_why_no_deeper() -> None:
    missed = {"wanted": 8, "got": {"stack:blocks": 4}, "reason": "s2 was culled: z < 2"}
    text = page({**SUMMARY, "depths": {"blocks": {"from": 2, "to": 4}}, "depth_shortfall": missed}, [boundary(10)])
    assert "<b>2 -&gt; 4 equal blocks</b><span>stack:blocks</span>" in text
    assert "wanted depth 8, got 4: s2 was culled: z &lt; 2" in text
    assert "wanted depth" not in page(SUMMARY, [boundary(10)])


def test_a_refused_command_stands_among_the_commands_with_its_reason() -> None:
    refused = {"kind": "command", "step": 10, "command_id": "demo-forged", "accepted": False}
    text = page(SUMMARY, [boundary(10), {**refused, "rejection": "INVALID_SIGNATURE", "detail": "<forged>"}])
    assert '<span class="bad">invalid signature</span>' in text
    assert "&lt;forged&gt;" in text


def test_the_step_times_card_tells_the_mean_that_the_chart_shows() -> None:
    text = page(SUMMARY, [boundary(step) for step in range(10, 300, 10)])
    assert "<b>1.10 ms</b>" in text
    assert "1.00 of them in the step itself (median 1.00, p95 2.00)" in text


def test_the_head_says_what_was_trained_with_what_and_how_to_do_it_again() -> None:
    facts = {"model": "mlp", "optimizer": "AdamW", "device": "cpu", "command": "tolaria-train --hidden 6,6"}
    text = page(SUMMARY, [{"kind": "run", "run_id": "r", "step": 0, **facts}, boundary(10)])
    assert "model mlp; optimiser AdamW; device cpu" in text
    assert "<pre>tolaria-train --hidden 6,6</pre>" in text
    grown = [told(layer("fc1", 6), layer("fc2", 6)), told(layer("fc1", 14), layer("fc2", 6), step=9)]
    assert "fc1 6 → 14" in page(SUMMARY, [*grown, boundary(10)])
    assert "blocks 2 → 4 blocks" in page(SUMMARY, [told(*blocks(2)), told(*blocks(4), step=9), boundary(10)])
    assert "no layer grew" in page(SUMMARY, [grown[0], boundary(10)])
    assert "<pre>" not in page(SUMMARY, [boundary(10)])  # earlier versions didn't tell


def test_the_charts_are_those_of_the_live_page_over_the_same_view() -> None:
    text = page(SUMMARY, [boundary(10)])
    for chart in ("loss", "network", "steps"):
        assert f'data-esper="{chart}"' in text
    held = text.partition('id="esper-view">')[2].partition("</script>")[0]
    same = view([boundary(10)], SUMMARY)
    assert json.loads(held) == {name: same[name] for name in DRAWN}


def test_negative_numbers_are_aligned_as_numbers() -> None:
    gate = {"kind": "gate", "step": 10, "seed_id": "s1", "gate": "G2", "verdict": "PASS", "measured": -0.5}
    assert '<td class="number" data-head="measured">-0.5</td>' in page(SUMMARY, [boundary(10), gate])


def test_a_comparison_gives_paired_differences_under_aligned_heads() -> None:
    same = {"parameters": 502, "training_macs": 24e6, "test_accuracy_sd": 0.0}
    grown = {**same, "name": "grown", "test_accuracy_mean": 0.9, "grown_minus_this_mean": 0.0, "grown_minus_this_sd": 0}
    host = {**same, "name": "host", "test_accuracy_mean": 0.8, "grown_minus_this_mean": 0.1, "grown_minus_this_sd": 0}
    text = page({**SUMMARY, "comparison": {"repeats": 2, "rows": [grown, host]}}, [boundary(10)])
    assert '<td class="number" data-head="grown - this, points">10.00 ± 0.00</td>' in text
    assert "0.00 ± 0.00</td>" in text
    for head in ("test accuracy, %", "grown - this, points", "training MMACs"):
        assert f'<th scope="col" class="number">{head}</th>' in text


def test_why_it_grew_or_waited_stands_in_the_page_with_orders_and_their_rationale() -> None:
    reason = {"kind": "growth", "step": 20, "reason": "SATURATED", "detail": "99.50% of the samples are right"}
    pause = {
        "kind": "command",
        "step": 30,
        "command_id": "op-1",
        "accepted": True,
        "issued_by": "operator:ada",
        "directives": ["PAUSE_GROWTH"],
        "rationale": "new data <at noon>",
    }
    text = page(SUMMARY, [boundary(10), reason, pause])
    for words in ("saturated", "99.50% of the samples", "operator:ada: pause growth", "new data &lt;at noon&gt;"):
        assert words in text
    assert "No policy was asked." in page(SUMMARY, [boundary(10)])


def test_a_lasting_reason_is_told_with_its_numbers_at_first_and_at_the_last_epochs_end() -> None:
    first = {"kind": "growth", "step": 20, "reason": "WARMING_UP", "detail": "step 10 of 500"}
    epochs = [
        {"kind": "epoch", "step": step, "epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "growth": growth}
        for step, growth in (
            (100, {"reason": "WARMING_UP", "detail": "step 90 of 500", "since_step": 20}),
            (200, {"reason": "WARMING_UP", "detail": "step 190 of 500", "since_step": 20}),
        )
    ]
    text = page(SUMMARY, [boundary(10), first, *epochs])
    for words in (">warming up<", "step 10 of 500", "step 190 of 500"):
        assert words in text
    assert "step 90 of 500" not in text[: text.index("<script")]


def test_tables_speak_in_words_rather_than_in_the_contracts_names() -> None:
    gate = {"kind": "gate", "step": 30, "seed_id": "s1", "gate": "G4_SYSTEM_IMPACT", "verdict": "FAIL", "detail": "low"}
    refused = {"kind": "command", "step": 30, "command_id": "c1", "accepted": False, "rejection": "BUDGET_EXCEEDED"}
    text = page(SUMMARY, [boundary(10), gate, {**refused, "reasons": ["PLATEAU"], "action": "germinate"}])
    for words in ("G4 system impact", "budget exceeded", ">plateau<"):
        assert words in text
    read = text[: text.index("<script")]
    for name in ("G4_SYSTEM_IMPACT", "BUDGET_EXCEEDED", "PLATEAU"):
        assert name not in read


def test_a_stacks_evaluations_stand_in_the_page_as_plot_and_as_numbers() -> None:
    scores = {"twin_score": 2.0, "grown_score": 1.75, "gain": 0.25, "standard_error": 0.125}
    made = {"kind": "evaluation", "step": 9, "seed_id": "s1", **scores, "samples": 50, "clipped_share": 0.0125}
    text = page(SUMMARY, [boundary(10), made])
    for words in ("All evaluations in numbers (1)", "0.2500 ± 0.1250", "1.25 %", 'data-esper="gains"'):
        assert words in text
    assert "evaluations in numbers" not in page(SUMMARY, [boundary(10)])


def test_both_arms_of_a_fork_are_smoothed_as_the_run_smooths() -> None:
    twin = {"kind": "twin", "step": 10, "from_step": 6, "seed_id": "s1", "loss": 2.0, "losses": [2.0] * 5}
    events = [boundary(5), twin, boundary(10)]
    assert "remember about 20 steps" in page(SUMMARY, events)
    assert "remember about 4 steps" in page({**SUMMARY, "smoothing": 0.25}, events)


def test_the_page_fits_narrow_screens_and_dark_ones() -> None:
    text = page(SUMMARY, [boundary(10)])
    assert '<meta name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    # A narrow screen shows a row as a block, each cell beside its head.
    tables = text[text.index("<body") : text.index("<script")]
    assert tables.count("<table") == tables.count('<table class="rows"')
    assert tables.count("<td") == tables.count("data-head=")


def test_twins_stand_in_the_page_with_predicted_and_measured_memory() -> None:
    twin = {"seed_id": "s1", "step": 60, "mode": "live", "why": "there is room", "free_bytes": 2**30}
    sizes = {"predicted_bytes": 5 * 2**20, "measured_bytes": 4 * 2**20}
    late = {"became": "undone", "became_step": 61, "became_why": "memory ran out"}
    peaks = {"peak_bytes_without_twin": 3 * 2**20, "peak_bytes_with_twin": 4 * 2**20, "unmeasured": None}
    found = page({**SUMMARY, "memory": {**peaks, "twins": [{**twin, **sizes}, {**twin, **late}]}}, [])
    assert "Memory of two arms" in found
    assert "there is room" in found
    assert "live, undone at step 61" in found
    assert "memory ran out" in found
    assert "3.0 MiB without a twin, 4.0 MiB with one" in found
    assert "Memory of two arms" not in page(SUMMARY, [])
