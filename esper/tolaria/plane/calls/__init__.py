"""Calls of an open run to the services, each under its deadline, breaker and check of the answer."""
