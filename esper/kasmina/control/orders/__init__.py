"""Orders: what a believed command does to a run, action by action, and every reason for which it is refused."""
