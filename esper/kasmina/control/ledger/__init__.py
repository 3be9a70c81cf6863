"""The ledger: what is on the disk of runs and commands, and the one transaction by which each request gets there."""
