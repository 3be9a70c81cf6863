"""The loop on one page: what the gate said, what was in force, what decisions were worth, and each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

CONTROL, DECISION = "shuffled", "tamiyo.evaluate"
SURE = 1.645
"""Standard errors of a one-sided 95 % bound."""
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); --good: #2a7f62;
  --bad: #b0413e; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.ok { color: var(--good); } .no { color: var(--bad); } svg { width: 100%; height: auto; }
svg text { font: 13px system-ui, sans-serif; fill: currentColor; } h2 { margin: 2rem 0 .3rem; font-size: 1.1rem; }
"""


def words_of(found: Mapping[str, Any]) -> Iterator[str]:
    """What the loop found, and how sure that is."""
    for arm, worth in _worths(found).items():
        loss = found[arm]["worth"]["test_loss"] if arm in found else None
        ended = "" if loss is None else f", test loss {loss:.3f} (geometric mean)"
        yield f"{arm}: {worth['mean']:+.4f} ± {worth['error']:.4f} for each later episode{ended}"
    learned = found["learned"]
    unseen = learned["unseen"]["values"]["learned - shuffled"]
    yield f"learned - shuffled, on explored runs that the weights weren't fitted to: {_sure(unseen)}"
    yield f"learned - shuffled, by later episode: {_sure(learned['beside'])}{_needed(learned['beside'])}"
    yield f"learned - heuristic, by later episode: {_sure(learned['beside_heuristic'])}"


def _worths(found: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Of each arm; controls together, each of which had its share of the episodes."""
    arms = {arm: told["worth"] for arm, told in found.items() if not arm.startswith(CONTROL)}
    return {**arms, CONTROL: found["learned"][CONTROL]}


def _sure(difference: Mapping[str, float]) -> str:
    low = difference["value"] - SURE * difference["error"]
    told = "told apart" if low > 0 else "not told apart"
    return f"{difference['value']:+.4f} ± {difference['error']:.4f}, {told} (one-sided 95 % bound {low:+.4f})"


def _needed(beside: Mapping[str, float]) -> str:
    """How many episodes this difference would take, if it is one."""
    if beside["value"] <= 0 or beside["value"] > SURE * beside["error"]:
        return ""
    episodes = beside["episodes"] * (SURE * beside["error"] / beside["value"]) ** 2
    return f"; a difference of this size would take {math.ceil(episodes)} episodes, there were {beside['episodes']:.0f}"


def page(found: dict[str, Any]) -> str:
    """HTML that stands alone."""
    body = [
        "<h1>A loop that learns</h1>",
        "<p>Worth of what was grown in each later episode: the gain of kept seeds as a share of the twin's score, "
        "less a fifth of what judging and running it cost, in whole runs of the host. Growing nothing is worth 0. "
        "Lines are standard errors.</p>",
        _bars(_worths(found)),
        "<ul>" + "".join(f"<li>{escape(line)}" for line in words_of(found)) + "</ul>",
    ]
    for arm, told in found.items():
        body.append(f"<h2>{escape(arm)}</h2>")
        if "gate" in told:
            body += [*_gate(told), _policies(told["standing"]), _trace(told["trace"])]
        body.append(_decisions(told["worth"]["decisions"]))
    head = f"<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'><style>{STYLE}</style>"
    return head + "<title>A loop that learns</title>" + "\n".join(body)


def _bars(worths: Mapping[str, Mapping[str, float]]) -> str:
    edge = max(0.02, *(abs(w["mean"]) + w["error"] for w in worths.values())) * 1.15
    width, left, height = 900, 130, 46

    def x(value: float) -> float:
        return left + (value + edge) / (2 * edge) * (width - left - 130)

    lines = [f"<line x1={x(0):.1f} x2={x(0):.1f} y1=0 y2={height * len(worths)} stroke='currentColor' opacity=.5 />"]
    for row, (arm, worth) in enumerate(worths.items()):
        middle, mean, error = height * row + height / 2, worth["mean"], worth["error"]
        colour = "var(--good)" if mean >= 0 else "var(--bad)"
        lines += [
            f"<text x=0 y={middle + 5:.0f}>{escape(arm)}</text>",
            f"<rect x={min(x(0), x(mean)):.1f} y={middle - 11:.0f} width={abs(x(mean) - x(0)):.1f} height=22 "
            f"fill='{colour}' opacity=.75 />",
            f"<line x1={x(mean - error):.1f} x2={x(mean + error):.1f} y1={middle:.0f} y2={middle:.0f} "
            "stroke='currentColor' stroke-width=2 />",
            f"<text x={width - 115} y={middle + 5:.0f}>{mean:+.3f} ± {error:.3f}</text>",
        ]
    return f"<svg viewBox='0 0 {width} {height * len(worths)}' role=img>{''.join(lines)}</svg>"


def _gate(told: dict[str, Any]) -> Iterator[str]:
    gate = told["gate"]
    kind, said = ("ok", "passed") if gate["passed"] else ("no", "refused")
    yield f"<p>The gate <b class={kind}>{said}</b>.</p>"
    rows = [
        f"<tr><td class={'ok' if c['holds'] else 'no'}>{'holds' if c['holds'] else 'fails'}<td>{escape(c['name'])}"
        f"<td>{c['measured']:.4g}<td>{escape(c['needed'])}"
        for c in gate["checks"]
    ]
    yield f"<table><tr><th><th>rule<th>measured<th>needed{''.join(rows)}</table>"
    if told["refused"]:
        yield f"<p>Published all the same, as a control: <code>{escape(told['refused'])}</code></p>"


def _policies(standing: dict[str, Any]) -> str:
    live = standing["versions"].get(standing["live"], "the heuristic")
    rows = [f"<tr><td>{escape(key)}<td>{escape(value)}" for key, value in standing["seen"].items()]
    rows += [
        f"<tr><td>{escape(standing['versions'][k])} rolled back<td>{escape(v)}"
        for k, v in standing["withdrawn"].items()
    ]
    table = f"<table><tr><th>update<th>what became of it{''.join(rows)}</table>"
    return f"<p>In force at the end: <b>{escape(live)}</b></p>{table}"


def _trace(spans: list[dict[str, Any]]) -> str:
    """How the weights came, and who decided by them."""
    if not spans:
        return "<p>The trace went where OTEL_EXPORTER_OTLP_ENDPOINT says.</p>"
    traces = {span["trace"] for span in spans if span["name"] != DECISION}
    rows = [
        f"<tr><td>{escape(span['name'])}<td>{escape(span['service'])}<td>{span['after_s']:.2f}"
        f"<td>{span['took_ms']:.1f}<td>{escape(span['says'])}"
        for span in spans
    ]
    table = f"<table><tr><th>span<th>process<th>s after<th>ms<th>of{''.join(rows)}</table>"
    linked = sum(span["name"] == DECISION for span in spans)
    head = f"trace {', '.join(sorted(traces))}; {linked} decisions by these weights that are linked to it"
    return f"<details><summary>{escape(head)}</summary>{table}</details>"


def _decisions(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>Nothing was grown.</p>"
    lines = [
        f"<tr><td>{escape(row['run_id'])}<td>{row['opened_step']}<td>{escape(row['policy_id'])} "
        f"{escape(row['policy_version'])}<td>{escape(row['slot_id'])}<td>{row['taken.widening']:.2f}"
        f"<td>{'' if row['value'] is None else format(row['value'], '+.3f')}<td>{row['gain_share']:+.1%}"
        f"<td class={'ok' if row['outcome'] == 'SUCCESS' else 'no'}>"
        f"{'kept' if row['outcome'] == 'SUCCESS' else 'refused'}<td>{row['cost_share']:.2f}<td>{row['reward']:+.3f}"
        for row in rows
    ]
    head = "<th>run<th>step<th>policy<th>slot<th>widening<th>value<th>gain<th>judge<th>cost<th>worth"
    grown = f"<table><tr>{head}{''.join(lines)}</table>"
    return f"<details><summary>{len(rows)} decisions</summary>{grown}</details>"
