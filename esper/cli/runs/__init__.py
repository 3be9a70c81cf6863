"""Runs: what they do or have done, on the terminal and in the browser; their networks and seeds."""
