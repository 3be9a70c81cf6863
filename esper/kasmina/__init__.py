"""Kasmina: seed execution. `control` holds the authority over seeds, `executor` their life in the trainer's process."""
