"""A new task: the loss has jumped, as after a change of the data, and has not come back to where it was.

What the network had flattened at was another task. The rest of the run may be too short for a second plateau, so
growth doesn't wait for one; the risk rules, which see the jump, hold it until the loss falls.
"""

from __future__ import annotations

from esper.leyline import TamiyoRunState
from esper.tamiyo.signals import relative_rise


def note_jump(after: TamiyoRunState, before: TamiyoRunState, *, floor: float, limit: float) -> None:
    """Keep in `after` the loss from which it jumped, until it comes back or the network changes.

    `before` is the state of the packet before; `limit` is a rise as a share of a loss, which `floor` is the least of.
    """
    loss = after.smoothed_loss
    if after.last_change_step > before.last_change_step:
        after.ClearField("jumped_from")
    elif after.HasField("jumped_from"):
        if relative_rise(loss, after.jumped_from, floor) <= limit:
            after.ClearField("jumped_from")
    elif before.HasField("smoothed_loss") and relative_rise(loss, before.smoothed_loss, floor) > limit:
        after.jumped_from = before.smoothed_loss


def in_words(state: TamiyoRunState) -> str | None:
    """What shows a new task; None without one."""
    if not state.HasField("jumped_from"):
        return None
    return f"the loss jumped from {state.jumped_from:.4g} and is at {state.smoothed_loss:.4g}"
