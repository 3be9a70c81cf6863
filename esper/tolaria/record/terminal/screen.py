"""What the live display draws: the run's figures, its loss so far, why it grows or waits, and its seeds.

It fits the terminal, 80 x 24 as well: columns go first, then seeds that are over, and room to scroll in stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from esper.core.plain import plain
from esper.tolaria.record.growth_reason import PAUSED, Reason
from esper.tolaria.record.observer import Boundary, EpochDone, SeedView
from esper.tolaria.record.terminal.loss_history import LossHistory

WIDE = 100
# The seeds' columns, by the least width of the terminal that has room for them.
COLUMNS = (
    (WIDE, ("seed", "blueprint", "slot", "stage", "alpha", "gain")),
    (70, ("seed", "slot", "stage", "alpha", "gain")),
    (0, ("seed", "slot", "stage", "alpha")),
)
BESIDE_SLOT = {WIDE: 72, 70: 54, 0: 34}
"""Characters of a row that the other columns take, by the same widths."""
OTHER_LINES = 9
"""Progress, figures, history, reason and the table's head, some of them in two lines."""
SCROLLS = 5
"""Lines that stay for what happens."""
HISTORY_WORDS = 24
LIVING = ("GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY")
STARTING = "starting: reads the data, builds and tries the network, starts the control plane"


def living(seeds: Sequence[SeedView]) -> list[SeedView]:
    """The seeds that are neither removed nor permanent."""
    return [seed for seed in seeds if seed.stage in LIVING]


def in_words(metrics: dict[str, float] | None) -> list[str]:
    """Metrics as they are shown: "R2 0.91"."""
    return [f"{name} {value:.4g}" for name, value in (metrics or {}).items()]


def screen(
    boundary: Boundary, epoch: EpochDone | None, history: LossHistory, step_ms: float, size: tuple[int, int]
) -> Iterator[RenderableType]:
    """The lines below the progress bar. size: columns and rows of the terminal."""
    width, height = size
    yield _figures(boundary, epoch, step_ms)
    if ends := history.ends:
        line = history.line(max(8, width - HISTORY_WORDS))
        yield Text(f"loss {ends[0]:.3g} {line} {ends[1]:.3g}", style="cyan", no_wrap=True, overflow="crop")
    if boundary.reason is not None:
        yield _why(boundary.reason)
    shown = fitting(boundary.seeds, width, height)
    yield seed_table(shown, width)
    if left_out := len(boundary.seeds) - len(shown):
        yield Text(f" and {left_out} more that are over", style="dim")


def _figures(boundary: Boundary, epoch: EpochDone | None, step_ms: float) -> Text:
    accuracy = epoch.validation_accuracy if epoch else None
    metrics = in_words(dict(epoch.validation_metrics)) if epoch else []
    figures = (
        f"loss [bold]{boundary.packet.metrics.smoothed_loss:.4f}[/bold]",
        "" if accuracy is None else f"accuracy [bold]{100 * accuracy:.2f} %[/bold]",
        *(escape(plain(figure)) for figure in metrics),
        f"{boundary.packet.metrics.parameters:,} parameters",
        f"mode [{'green' if boundary.mode == 'normal' else 'yellow'}]{escape(plain(boundary.mode))}[/]",
        f"{step_ms:.2f} ms/step",
    )
    line = Text.from_markup("   ".join(filter(None, figures)))
    line.append(plain(of_plane(boundary)), style="red")
    return line


def of_plane(boundary: Boundary) -> str:
    """The plane's word, where it is not NORMAL."""
    return "" if boundary.plane.is_quiet else f" (the plane is {boundary.plane.in_words})"


def _why(reason: Reason) -> Text:
    """Why it grows or waits; that somebody paused it stands out."""
    style = "bold yellow" if reason.name == PAUSED else "dim"
    return Text(plain(f"growth: {reason.with_since()}"), style=style)


def fitting(seeds: Sequence[SeedView], width: int, height: int) -> list[SeedView]:
    """As many seeds as there is room for, in their order: living ones come first, then the newest."""
    beside = next(taken for least, taken in BESIDE_SLOT.items() if width >= least)
    longest = max((len(seed.slot_id) for seed in seeds), default=1)
    lines = -(-longest // max(8, width - beside))
    room = max(1, (height - OTHER_LINES - SCROLLS) // lines)
    alive = {seed.seed_id for seed in living(seeds)}
    first = sorted(range(len(seeds)), key=lambda place: (seeds[place].seed_id not in alive, -place))
    return [seeds[place] for place in sorted(first[:room])]


def seed_table(seeds: Sequence[SeedView], width: int = WIDE) -> Table:
    """The seeds, in as many columns as `width` characters have room for; a slot is folded, never cut: its end tells it
    from others."""
    columns = next(columns for least, columns in COLUMNS if width >= least)
    table = Table(box=None, padding=(0, 1), show_header=bool(seeds), header_style="dim")
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name != "slot")
    for seed in seeds:
        cells = _cells(seed, with_bar=width >= WIDE)
        style = "green" if seed.stage == "FOSSILIZED" else "" if seed.stage in LIVING else "dim"
        table.add_row(*(Text(plain(cells[name])) for name in columns), style=style)
    return table


def _cells(seed: SeedView, *, with_bar: bool) -> dict[str, str]:
    bar = f"{'█' * round(8 * seed.alpha):<8} " if with_bar else ""
    return {
        "seed": seed.seed_id,
        "blueprint": seed.blueprint_id,
        "slot": seed.slot_id,
        "stage": seed.standing,
        "alpha": f"{bar}{seed.alpha:.2f}",
        "gain": "" if seed.gain is None else f"{seed.gain:+.4f} ± {seed.gain_standard_error or 0:.4f}",
    }
