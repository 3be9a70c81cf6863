"""Settings and their sources: files, environment, flags, and what older deployments still set."""
