"""The door for a script: `esper.train` runs the whole loop, `esper.Growth` stands inside a loop that exists.

Both are thin over what `tolaria-train` uses: the same settings, files, errors and results.
"""

import os

# Data workers are forked; grpc's own fork handlers hang them. Read once, when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
