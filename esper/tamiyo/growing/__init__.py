"""What could be grown now, what it would take, and which of it is chosen."""
