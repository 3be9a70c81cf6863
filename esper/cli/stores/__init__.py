"""What is kept on disk: ledgers, logs, the bus and the catalogue, looked at, checked, copied and repaired."""
