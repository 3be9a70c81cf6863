"""Where a run's older states are: in memory (fast) and on the disk (full), each read under a deadline."""
