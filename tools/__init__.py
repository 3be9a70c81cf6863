"""Scripts of the source tree; nothing of this is installed."""
