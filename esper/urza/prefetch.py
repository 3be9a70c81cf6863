"""Urza's part of a prefetch: the artefact and every file that its recipe names are read and verified.

The answer carries the artefact, so that who asked needs no further reading.
"""

from __future__ import annotations

import time

from google.protobuf.message import DecodeError

from esper.core.errors import ContractError, EsperError
from esper.leyline import KernelArtifact, KernelArtifactError, KernelArtifactReady, KernelPrefetchRequest, SeedRecipe
from esper.urza.artifacts import ArtifactStore

Answer = KernelArtifactReady | KernelArtifactError
MAX_BYTES = 65_536


def answer(store: ArtifactStore, request: KernelPrefetchRequest) -> Answer:
    """Ready, or why not. It reads whole files: call it off the event loop."""
    began = time.perf_counter()
    try:
        content = _verified(store, request)
    except (EsperError, OSError) as error:
        return KernelArtifactError(
            request_id=request.request_id, blueprint_id=request.blueprint_id, reason=str(error) or type(error).__name__
        )
    return KernelArtifactReady(
        request_id=request.request_id,
        blueprint_id=request.blueprint_id,
        artifact=KernelArtifact(
            digest=request.digest, size_bytes=len(content), content_type=SeedRecipe.DESCRIPTOR.full_name
        ),
        verify_ms=(time.perf_counter() - began) * 1e3,
        content=content,
    )


def _verified(store: ArtifactStore, request: KernelPrefetchRequest) -> bytes:
    content = store.get(request.digest)
    if len(content) > MAX_BYTES:
        held = f"artefact {request.digest} has {len(content):,} bytes; a recipe has at most {MAX_BYTES:,}"
        raise ContractError(SeedRecipe.DESCRIPTOR.full_name, [held])
    try:
        recipe = SeedRecipe.FromString(content)
    except DecodeError:
        return content  # whole, but no recipe: whoever builds from it says so
    for digest in filter(None, (recipe.source.digest, recipe.weights.digest)):
        store.get(digest)
    return content
