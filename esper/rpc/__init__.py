"""Rpc: grpc scaffolding for servers and clients, and the only place that imports grpc.

Servers: typed asyncio bases, health, reflection, deadlines, tracing, error mapping, drain, TLS. Clients: one
synchronous and one asyncio class per service, whose methods all take a deadline.
"""

import os

# grpc's core writes lines of its own beside our one clear line; whoever wants to see them sets the variable.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
