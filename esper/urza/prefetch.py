"""Urza's part of a prefetch: the artefact and every file that its recipe names are read and verified."""

from __future__ import annotations

import time

from google.protobuf.message import DecodeError

from esper.core.errors import EsperError
from esper.leyline import KernelArtifact, KernelArtifactError, KernelArtifactReady, KernelPrefetchRequest, SeedRecipe
from esper.urza.artifacts import ArtifactStore

Answer = KernelArtifactReady | KernelArtifactError


def answer(store: ArtifactStore, request: KernelPrefetchRequest) -> Answer:
    """Ready, or why not. It reads whole files: call it off the event loop."""
    began = time.perf_counter()
    try:
        size_bytes = _verified(store, request)
    except (EsperError, OSError) as error:
        return KernelArtifactError(
            request_id=request.request_id, blueprint_id=request.blueprint_id, reason=str(error) or type(error).__name__
        )
    return KernelArtifactReady(
        request_id=request.request_id,
        blueprint_id=request.blueprint_id,
        artifact=KernelArtifact(
            digest=request.digest, size_bytes=size_bytes, content_type=SeedRecipe.DESCRIPTOR.full_name
        ),
        verify_ms=(time.perf_counter() - began) * 1e3,
    )


def _verified(store: ArtifactStore, request: KernelPrefetchRequest) -> int:
    content = store.get(request.digest)
    try:
        recipe = SeedRecipe.FromString(content)
    except DecodeError:
        return len(content)  # whole, but no recipe: whoever builds from it says so
    for digest in filter(None, (recipe.source.digest, recipe.weights.digest)):
        store.get(digest)
    return len(content)
