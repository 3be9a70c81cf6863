"""The harness: measures a live control plane (seeds, services, restores), breaks it on purpose, and measures again.

`esper harness` is its command line. Each scenario is a module here; its result is a value that `files` writes. What can
be broken stands in `faults`, which the drills use too.
"""
