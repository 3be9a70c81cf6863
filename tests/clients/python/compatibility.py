"""Builds every compatibility vector of a file from its JSON, and prints the names of those whose bytes differ, and of
those whose bytes it signs differently.

Message classes and stubs: `python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. PROTOS`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf import json_format, message_factory, symbol_database
from signing import signature_of


def load_contracts(package: str = "esper.leyline.v1") -> Any:
    """Every generated module, whose import makes its messages known."""
    for path in sys.path:
        for module in Path(path, *package.split(".")).glob("*_pb2.py"):
            importlib.import_module(f"{package}.{module.stem}")
    return symbol_database.Default().pool


def has_other_bytes(pool: Any, vector: dict[str, Any]) -> bool:
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(vector["type"]))()
    json_format.ParseDict(vector["message"], message)
    return message.SerializeToString(deterministic=True).hex() != vector["payload_hex"]


def has_other_signature(document: dict[str, Any], vector: dict[str, Any]) -> bool:
    payload = bytes.fromhex(vector["payload_hex"])
    place = (document["master_secret"], payload, vector["type"], document["audience"], document["security"])
    return signature_of(*place) != vector["signature"]


def main() -> None:
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    vectors, pool = document["vectors"], load_contracts()
    found = {
        "checked": len(vectors),
        "bytes": [vector["name"] for vector in vectors if has_other_bytes(pool, vector)],
        "signatures": [vector["name"] for vector in vectors if has_other_signature(document, vector)],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
