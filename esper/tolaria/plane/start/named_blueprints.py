"""Blueprints that the user named: each must exist and get a slot of this host, or it would silently never be grown."""

from __future__ import annotations

from collections.abc import Sequence

from esper.core.errors import ConfigError, DependencyViolationError
from esper.leyline import Blueprint, HostManifest
from esper.urza.catalog import Catalog, assigned, is_stack, misfit


def check_blueprints(named: Sequence[str], manifest: HostManifest, own: Sequence[Blueprint] = ()) -> None:
    """Raise ConfigError for the first blueprint that is unknown, fits nowhere, or is left no slot by the others."""
    catalog = Catalog.builtin().with_own(own)

    def fits(blueprint: Blueprint) -> bool:
        return any(misfit(blueprint, slot, manifest.task) is None for slot in manifest.slots)

    for blueprint_id in named:
        try:
            blueprint = catalog.get(blueprint_id)
        except DependencyViolationError as error:
            raise ConfigError("blueprints", blueprint_id, f"there is no such blueprint; {error.remedy}") from error
        if not fits(blueprint):
            slots = ", ".join(slot.slot_id for slot in manifest.slots)
            fitting = [known.blueprint_id for known in catalog.all() if fits(known)]
            remedy = f"fits none of the host's slots ({slots}); these do: {', '.join(fitting)}"
            raise ConfigError("blueprints", blueprint_id, remedy)
    takers = assigned([catalog.get(blueprint_id) for blueprint_id in named], list(manifest.slots), manifest.task)
    used = {blueprint.blueprint_id for blueprint in takers.values()}
    for blueprint_id in named:
        if blueprint_id not in used and not is_stack(catalog.get(blueprint_id)):
            remedy = f"gets no slot: {', '.join(sorted(used))} take all that it fits; name it first, or alone"
            raise ConfigError("blueprints", blueprint_id, remedy)
