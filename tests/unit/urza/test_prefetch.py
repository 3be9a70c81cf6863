"""Urza's answer to a request for an artefact."""

from pathlib import Path

from esper.leyline import KernelArtifactError, KernelArtifactReady, KernelPrefetchRequest
from esper.urza.artifacts import ArtifactStore
from esper.urza.prefetch import MAX_BYTES, Answer, answer


def answered(store: ArtifactStore, digest: str) -> Answer:
    return answer(store, KernelPrefetchRequest(request_id="1", blueprint_id="b", digest=digest))


def test_the_answer_carries_the_artefact(tmp_path: Path) -> None:
    store, content = ArtifactStore(tmp_path), bytes(MAX_BYTES)
    told = answered(store, store.put(content))
    assert isinstance(told, KernelArtifactReady)
    assert (told.content, told.artifact.size_bytes) == (content, MAX_BYTES)


def test_what_is_too_large_for_a_recipe_is_an_error_that_says_so(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    digest = store.put(bytes(MAX_BYTES + 1))
    told = answered(store, digest)
    assert isinstance(told, KernelArtifactError)
    assert f"artefact {digest} has 65,537 bytes; a recipe has at most 65,536" in told.reason
