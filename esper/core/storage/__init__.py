"""Files that survive: durable replacement, locks, SQLite with one writer, seals, and what damage says."""
