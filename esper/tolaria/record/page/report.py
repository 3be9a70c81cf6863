"""report.html: one page that shows what a run did, drawn from its summary and events.

The page stands alone (no network) and can be drawn again at any time from the run's files. Its tables are HTML; its
charts are those of the live page, by the same script, which the page holds beside the view that they draw.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from esper.core.counted import counted
from esper.core.plain import plain
from esper.core.storage.files import named
from esper.tolaria.record.course.reading import INCIDENTS, of_kind, read_events, standing
from esper.tolaria.record.page.assets import asset
from esper.tolaria.record.page.view import view
from esper.tolaria.record.page.words import WORDS
from esper.tolaria.record.terminal.depth_words import became, missed

Record = Mapping[str, Any]

STYLE = """
body { background: var(--paper); max-width: 62rem; margin: 1.5rem auto 3rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } p.lead { color: var(--soft); margin-top: .3rem; }
.cards { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .8rem; max-width: 100%; } .tile b { display: block; font-size: 1.2rem; overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: .8rem; }
td.word { white-space: nowrap; } @media (max-width: 40rem) { td.word { white-space: normal; } } [data-esper] > .card { margin-top: 1.5rem; }
"""  # noqa: E501
NEEDS_SCRIPT = "This chart is drawn by the page's own script, which is switched off here."
WORD_LENGTH = 40  # a name up to this long stands in one line


def report_path(run_dir: Path) -> Path:
    """Where the report of a run is drawn."""
    return run_dir / "report.html"


def write_report(run_dir: Path) -> Path:
    """Draw report.html from summary.json and events.jsonl of `run_dir`; return its path."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    path = report_path(run_dir)
    with named(path):
        path.write_text(page(summary, standing(read_events(run_dir))), encoding="utf-8")
    return path


class Markup(str):
    """HTML that was made here; every other text is escaped where it is drawn."""

    __slots__ = ()


def span(kind: str, text: str) -> Markup:
    """A text of one of the page's kinds: good, bad or quiet."""
    return Markup(f'<span class="{kind}">{escaped(text)}</span>')


def escaped(text: object) -> str:
    """A text as it stands in the page: nothing in it is markup, nor turns the direction of writing."""
    return html.escape(plain(text))


def page(summary: Record, events: Sequence[Record]) -> str:
    """The whole page."""
    shown = view(events, summary)
    sections = [
        _header(summary, shown),
        _cards(summary, shown),
        _missed_depth(summary),
        _early_end(summary),
        _chart("Loss", "loss"),
        _chart("Network", "network"),
        _chart("", "decision") if shown["looks"] else None,
        _section("Seeds", _seed_table(summary)),
        _chart("The judge's looks", "gains") if shown["looks"] or shown["evaluations"] else None,
        _evaluation_table(events),
        _chart("What training cost", "cost") if shown["cost"] else None,
        _section("Comparison", _comparison_table(summary)) if summary.get("comparison") else None,
        _chart("Where a step's time goes", "steps"),
        _section("Memory of two arms", _memory_table(summary)) if _twins(summary) else None,
        _section("Why it grew, or waited", _reason_table(events)),
        _section("Gates", _gate_table(events)),
        _section("Commands", _command_table(events)),
        _section("Incidents", _incident_table(events)),
        _section("Words", _legend()),
    ]
    title = escaped(f"Run {summary['run_id']}")
    body = "\n".join(section for section in sections if section)
    meta = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    style = f"<style>{asset('page.css').decode()}{STYLE}</style>"
    head = f'<meta charset="utf-8">{meta}<title>{title}</title>{style}'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head>'
        f"<body><h1>{title}</h1>{body}{_held(shown)}<script>{_script()}</script></body></html>\n"
    )


# What the charts are drawn from; nothing of it changes when the report is drawn again.
DRAWN = ("loss", "progress", "network", "looks", "evaluations", "cost", "step_time")


def _held(shown: Any) -> str:
    """The view as data: no text of it can end the element that holds it."""
    drawn = {name: shown[name] for name in DRAWN}
    text = json.dumps(drawn, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="esper-view">{text}</script>'


def _script() -> str:
    return asset("page.js").decode().replace("</script", "<\\/script")


def _header(summary: Record, shown: Record) -> str:
    """What was trained, with what, what it grew to, and how to do it again."""
    run = shown["run"]
    known = {**run, **{name: summary[name] for name in ("model", "device") if summary.get(name)}}
    facts = [f"{name} {known[key]}" for name, key in HEADER if known.get(key)]
    facts += [", ".join(_grown(shown["network"])) or "no layer grew"] if shown["network"] else []
    lead = (
        f"{summary['data']}, seed {summary['seed']}, {counted(summary['epochs'], 'epoch')}, "
        f"{counted(summary['steps'], 'step')}; "
        f"{summary['task']}"
    )
    again = f"<pre>{escaped(run['command'])}</pre>" if run.get("command") else ""
    return f'<p class="lead">{escaped(lead)}</p><p>{escaped("; ".join(facts))}</p>{again}'


def _grown(network: Record) -> Iterator[str]:
    """Layers and lists that are not as they were: "fc1 6 → 14"."""
    for row in network["rows"]:
        for layer in row["layers"]:
            if layer["before"] not in (None, layer["now"]):
                name = row["path"] if row["path"] == layer["path"] else f"{row['path']} {layer['path']}"
                yield f"{name} {layer['before']} → {layer['now']}"
    for blocks in network["lists"]:
        yield f"{blocks['path']} {blocks['before']} → {blocks['now']} blocks"


HEADER = (("model", "model"), ("optimiser", "optimizer"), ("device", "device"))


def _chart(title: str, name: str) -> str:
    """The place of a chart; the live page's script draws it."""
    words = f'<p class="quiet">{escaped(NEEDS_SCRIPT)}</p>'
    head = f"<h2>{escaped(title)}</h2>" if title else ""
    return f'{head}<div data-esper="{name}">{words}</div>'


def _missed_depth(summary: Record) -> str | None:
    told = missed(summary)
    return None if told is None else f'<p class="bad">{escaped(told)}</p>'


def _early_end(summary: Record) -> str | None:
    told = summary.get("ended_early")
    return None if told is None else f'<p class="quiet">{escaped(f"Ended early: {told}.")}</p>'


def _of_other_weights(summary: Record) -> Iterator[tuple[str, str]]:
    """What the average of the weights and the network of the best epoch reach in the test."""
    for entry, whose in (("ema", "the average"), ("best", "the best epoch")):
        found = summary.get(entry) or {}
        if found.get("test_accuracy") is not None:
            yield _percent(found["test_accuracy"]), f"test accuracy of {whose}"
        elif "test_loss" in found:
            yield f"{found['test_loss']:.4g}", f"test loss of {whose}"


def _cards(summary: Record, shown: Record) -> str:
    growth, pace = summary["growth"], shown["step_time"]["mean_ms"]
    cards = [
        (_percent(summary["test_accuracy"]), "test accuracy"),
        *((f"{value:.4g}", f"test {name}") for name, value in summary.get("test_metrics", {}).items()),
        *_of_other_weights(summary),
        (_percent(summary.get("host_test_accuracy")), "same host, never grown"),
        (f"{summary['host_parameters']:,} → {summary['final_parameters']:,}", "parameters"),
        *((grown.partition(" ")[2], grown.partition(" ")[0]) for grown in became(summary)),
        (f"{growth['germinated']} / {growth['judged']} / {growth['kept']}", "germinated / judged / kept"),
        (f"{summary['training_macs'] / 1e6:,.0f} M", f"training MACs, {_growth_share(summary):.0%} of them for growth"),
        *([(f"{sum(pace.values()):.2f} ms", _pace_words(summary, pace))] if pace else []),
        (_percent(summary.get("surgery_share")), "of step time for gradient surgery"),
        (_percent(summary.get("gradient_conflict_rate")), "of pairs of gradients in conflict, smoothed"),
        ("yes", f"reproducible, on {summary['machine']}")
        if summary["reproducible"]
        else ("no", f"reproducible: {summary['reproducible_cause']}"),
    ]
    items = "".join(
        f'<div class="tile"><b>{escaped(value)}</b><span>{escaped(label)}</span></div>'
        for value, label in cards
        if value
    )
    return f'<div class="cards">{items}</div>'


def _pace_words(summary: Record, pace: Mapping[str, float]) -> str:
    """The mean is what the chart shows; a median leaves out what growth takes at few of the steps."""
    alone, quantiles = pace["step"], summary["step_ms"]
    return (
        f"a step on average, {alone:.2f} of them in the step itself (median {quantiles['p50']:.2f}, "
        f"p95 {quantiles['p95']:.2f})"
    )


def _growth_share(summary: Record) -> float:
    """Share of the work that twins, incubation and judging took."""
    by_use = summary["training_macs_by_use"]
    return 1.0 - float(by_use["main"]) / max(1, int(summary["training_macs"]))


def _seed_table(summary: Record) -> str:
    rows = [
        (
            seed["seed_id"],
            seed["blueprint_id"],
            seed["slot"],
            _words(seed["stage"]),
            _number(seed.get("alpha")),
            _with_error(seed.get("gain"), seed.get("gain_se")),
            _with_error(seed.get("muted_gain"), seed.get("muted_gain_se")),
            _fate(seed["fate"]),
        )
        for seed in summary["seeds"]
    ]
    header = ("seed", "blueprint", "slot", "stage", "alpha", "gain ± SE of samples", "muted gain ± SE", "fate")
    return _table(header, rows, empty="No seed was germinated.")


def _evaluation_table(events: Sequence[Record]) -> str | None:
    rows = [
        (
            str(event["step"]),
            event["seed_id"],
            _number(event["twin_score"]),
            _number(event["grown_score"]),
            _with_error(event["gain"], event["standard_error"]),
            f"{100 * event['clipped_share']:.2f} %",
        )
        for event in of_kind(events, "evaluation")
    ]
    if not rows:
        return None
    header = ("step", "stack", "score of the twin", "score of the grown network", "gain ± SE", "clipped tokens")
    table = _table(header, rows, empty="")
    return f"<details><summary>All evaluations in numbers ({len(rows)})</summary>{table}</details>"


def _reason_table(events: Sequence[Record]) -> str:
    """Each reason with its numbers at first, and at the last epoch's end while it held."""
    rows: list[tuple[str, str, str, str]] = []
    for event in events:
        if event["kind"] == "growth":
            rows.append((str(event["step"]), _words(event["reason"]), event["detail"], ""))
        elif (now := event.get("growth")) and rows and rows[-1][1] == _words(now["reason"]):
            rows[-1] = (*rows[-1][:3], now["detail"])
    return _table(("step", "reason", "in numbers", "at the last epoch's end"), rows, empty="No policy was asked.")


def _gate_table(events: Sequence[Record]) -> str:
    rows = [
        (
            str(gate["step"]),
            gate["seed_id"],
            _gate(gate["gate"]),
            _verdict(gate["verdict"]),
            _number(gate.get("measured")),
            _number(gate.get("threshold")),
            gate.get("detail", ""),
        )
        for gate in of_kind(events, "gate")
        if gate["verdict"] != "WAIT"
    ]
    header = ("step", "seed", "gate", "verdict", "measured", "threshold", "why")
    return _table(header, rows, empty="No gate was consulted.")


def _command_table(events: Sequence[Record]) -> str:
    rows = [
        (
            str(command["step"]),
            command["command_id"],
            command.get("action") or _ordered(command),
            span("good", "accepted") if command["accepted"] else span("bad", _words(command["rejection"])),
            command.get("detail") or command.get("rationale") or ", ".join(map(_words, command.get("reasons", ()))),
        )
        for command in of_kind(events, "command")
    ]
    return _table(("step", "command", "action", "outcome", "why"), rows, empty="No command was issued.")


def _ordered(command: Record) -> str:
    """An operator's order; a policy's command has an action."""
    done = ", ".join(map(_words, command.get("directives", ())))
    issuer = command.get("issued_by", "")
    return f"{issuer}: {done}" if issuer and done else issuer or done


def _incident_table(events: Sequence[Record]) -> str:
    rows = [
        (str(event.get("step", "")), event["kind"], event.get("name", ""), event.get("detail", ""))
        for event in events
        if event["kind"] in INCIDENTS
    ]
    return _table(("step", "kind", "what", "detail"), rows, empty="None.")


def _twins(summary: Record) -> Sequence[Record]:
    """Summaries of earlier versions say nothing of them."""
    twins: Sequence[Record] = summary.get("memory", {}).get("twins", ())
    return twins


def _memory_table(summary: Record) -> str:
    rows = [
        (
            twin["seed_id"],
            str(twin["step"]),
            twin["mode"] + (f", {twin['became']} at step {twin['became_step']}" if "became" in twin else ""),
            _mib(twin.get("predicted_bytes")),
            _mib(twin.get("measured_bytes")),
            _mib(twin.get("free_bytes")),
            twin.get("became_why", twin["why"]),
        )
        for twin in _twins(summary)
    ]
    memory = summary["memory"]
    peaks = (
        memory["unmeasured"]
        or f"Peak of the device {_mib(memory['peak_bytes_without_twin'])} MiB without a twin, "
        f"{_mib(memory['peak_bytes_with_twin'])} MiB with one."
    )
    header = ("seed", "step", "twin", "predicted, MiB", "measured, MiB", "to be had, MiB", "why")
    return _table(header, rows, empty="") + f'<p class="quiet">{escaped(peaks)}</p>'


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:,.1f}"


def _comparison_table(summary: Record) -> str:
    rows = [
        (
            row["name"],
            f"{100 * row['test_accuracy_mean']:.2f} ± {100 * row['test_accuracy_sd']:.2f}",
            ""
            if row["name"] == "grown"
            else f"{100 * row['grown_minus_this_mean']:.2f} ± {100 * row['grown_minus_this_sd']:.2f}",
            f"{row['parameters']:,.0f}",
            f"{row['training_macs'] / 1e6:,.0f}",
        )
        for row in summary["comparison"]["rows"]
    ]
    words = f"{counted(summary['comparison']['repeats'], 'repeat')}; mean ± standard deviation; paired differences."
    note = f'<p class="quiet">{escaped(words)}</p>'
    return (
        _table(("network", "test accuracy, %", "grown - this, points", "parameters", "training MMACs"), rows, empty="")
        + note
    )


def _legend() -> str:
    """What the page's own words mean."""
    told = "".join(f"<dt>{escaped(word)}</dt><dd>{escaped(meaning)}</dd>" for word, meaning in WORDS.items())
    return f'<dl class="words">{told}</dl>'


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> str:
    """Cells that are Markup stand as they are; all others are escaped. Narrow screens show each row as a block."""
    if not rows:
        return f'<p class="quiet">{empty}</p>'
    columns = zip(header, zip(*rows, strict=True), strict=True)
    head = "".join(f'<th scope="col"{_kind(cells)}>{escaped(name)}</th>' for name, cells in columns)
    lines = "".join("<tr>" + "".join(map(_cell, header, row)) + "</tr>" for row in rows)
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def _cell(head: str, text: str) -> str:
    name = f' data-head="{escaped(head)}"'
    if isinstance(text, Markup):
        return f"<td{name}>{text}</td>"
    return f"<td{_kind([text])}{name}>{escaped(text)}</td>"


def _kind(cells: Sequence[str]) -> str:
    """The class of a cell, or of the head of several: numbers stand on the right, names in one line."""
    there = [text for text in cells if text]
    if there and all(map(_is_number, there)):
        return ' class="number"'
    is_word = all(len(text) <= WORD_LENGTH and " " not in text for text in there)
    return ' class="word"' if is_word else ""


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace(" ± ", "").isdigit()


def _words(name: str) -> str:
    """A contract's name for people: STILL_IMPROVING -> still improving."""
    return name.replace("_", " ").lower()


def _gate(name: str) -> str:
    """A gate keeps its number: G4_SYSTEM_IMPACT -> G4 system impact."""
    number, _, words = name.partition("_")
    return f"{number} {_words(words)}"


def _fate(fate: str) -> Markup:
    return span("good" if fate == "kept" else "quiet", fate)


def _verdict(verdict: str) -> Markup:
    kind = {"PASS": "good", "FAIL": "bad"}.get(verdict, "quiet")
    return span(kind, verdict.lower())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"
