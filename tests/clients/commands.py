"""A command as an operator writes it, in protobuf's JSON."""

from __future__ import annotations

from typing import Any

RUN = "run-clients"


def pause(command_id: str, rationale: str = "häufig") -> dict[str, Any]:
    """A pause, with a field behind the oneof, so that the order of the bytes is the library's choice."""
    return {
        "command_id": command_id,
        "training_run_id": RUN,
        "generation": 0,
        "step": 0,
        "issued_by": "operator:me",
        "pause": {"rationale": rationale},
        "trace": {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"},
    }
