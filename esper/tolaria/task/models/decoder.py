"""From the settings to a decoder's style and MLP widths; what doesn't fit together is refused before it is built."""

from __future__ import annotations

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.models.transformer import DecoderStyle

DEFAULT_WIDTHS = (32, 32)
DEFAULT_DEPTH = len(DEFAULT_WIDTHS)
# An MLP is four times as wide as the residual stream; a gated one has three layers for two, so two thirds of that.
MLP_WIDTHS = {"plain": 4.0, "gated": 8.0 / 3.0}
WIDTH_MULTIPLE = 8

SETTINGS = ("depth", "width", "heads", "positions", "norm", "mlp", "tied")


def style_of(config: TrainConfig) -> DecoderStyle:
    """The decoder's style. Raises ConfigError for heads that don't divide its width, or can't be turned."""
    named = {
        "size": config.width,
        "heads": config.heads,
        "positions": config.positions,
        "norm": config.norm,
        "mlp": config.mlp,
        "is_tied": config.tied,
    }
    style = DecoderStyle(**{name: value for name, value in named.items() if value is not None})  # type: ignore[arg-type]
    head_size, rest = divmod(style.size, style.heads)
    if rest:
        raise ConfigError("heads", style.heads, f"must divide the width, which is {style.size}")
    if style.positions == "rotary" and head_size % 2:
        remedy = f"needs an even number of values in a head, got {head_size} (width {style.size}, {style.heads} heads)"
        raise ConfigError("positions", "rotary", remedy)
    return style


def widths_of(config: TrainConfig) -> tuple[int, ...]:
    """MLP widths of the blocks: `hidden`, one for all blocks or one each; else made from the residual stream's."""
    hidden = config.hidden
    if config.depth is None and hidden:
        return hidden
    if config.depth is None and config.width is None:
        return DEFAULT_WIDTHS
    depth = config.depth or DEFAULT_DEPTH
    widths = hidden if len(hidden) > 1 else (hidden or (_mlp_width(style_of(config)),)) * depth
    if len(widths) != depth:
        raise ConfigError(
            "hidden",
            hidden,
            f"gives {counted(len(widths), 'width')} for {counted(depth, 'block')}; give one, or {depth}",
        )
    return widths


def refuse_settings(config: TrainConfig) -> None:
    """Raise ConfigError for a decoder's setting that was given to another model, which would not heed it."""
    for name in SETTINGS:
        if value := getattr(config, name):
            raise ConfigError(name, value, f"is a setting of --model transformer; {config.model} has none of that name")


def _mlp_width(style: DecoderStyle) -> int:
    width = style.size * MLP_WIDTHS[style.mlp]
    return -int(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE if style.mlp == "gated" else int(width)
