"""A Redis server of one's own, durable as the bus asks for."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tools.harness.faults.server import HOST, Server, free_port

# It keeps what it acknowledged.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
SLOTS = (0, 16_383)


class RedisServer(Server):
    """One server; the one node of a cluster if it is asked for."""

    PROGRAM = PACKAGE = "redis-server"

    def __init__(self, *, is_cluster: bool = False) -> None:
        super().__init__()
        self._is_cluster = is_cluster
        self.url = f"redis://{HOST}:{self.port}/0"

    def options(self) -> Sequence[str]:
        # The nodes' own port would be 10,000 higher, which may be more than there are.
        kind = ("--cluster-enabled", "yes", "--cluster-port", str(free_port())) if self._is_cluster else ()
        return ("--port", str(self.port), "--bind", HOST, "--dir", str(self.folder), *DURABLE, *kind)

    def is_ready(self) -> bool:
        return "+PONG" in self._ask("PING")

    def start(self) -> None:
        super().start()
        if self._is_cluster:
            self._ask(f"CLUSTER ADDSLOTSRANGE {SLOTS[0]} {SLOTS[1]}")
            self.wait_until(lambda: "cluster_state:ok" in self._ask("CLUSTER INFO"))

    def _ask(self, command: str) -> str:
        with socket.create_connection((HOST, self.port), 1.0) as line:
            line.sendall(f"{command}\r\n".encode())
            return line.recv(4096).decode()
