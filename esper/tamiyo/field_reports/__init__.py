"""Field reports: what was decided, what came of it, and their way to whoever learns from them."""
