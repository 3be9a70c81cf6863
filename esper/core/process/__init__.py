"""A process from its start to its end: children, workers, streams, signals to systemd, its last words."""
