"""Blueprints that the user named: each must exist and fit a slot of this host, or the run would silently never grow."""

from __future__ import annotations

from collections.abc import Sequence

from esper.core.errors import ConfigError, DependencyViolationError
from esper.leyline import HostManifest
from esper.urza.catalog import Catalog, misfit


def check_blueprints(named: Sequence[str], manifest: HostManifest) -> None:
    """Raise ConfigError for the first blueprint that is unknown or fits nowhere."""
    catalog = Catalog.builtin()
    for blueprint_id in named:
        try:
            blueprint = catalog.get(blueprint_id)
        except DependencyViolationError as error:
            raise ConfigError("blueprints", blueprint_id, f"there is no such blueprint; {error.remedy}") from error
        if all(misfit(blueprint, slot) for slot in manifest.slots):
            slots = ", ".join(slot.slot_id for slot in manifest.slots)
            fitting = [b.blueprint_id for b in catalog.all() if not all(misfit(b, slot) for slot in manifest.slots)]
            remedy = f"fits none of the host's slots ({slots}); these do: {', '.join(fitting)}"
            raise ConfigError("blueprints", blueprint_id, remedy)
