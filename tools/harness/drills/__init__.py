"""Drills: something is broken in a live plane; a real Prometheus must raise the alert, and clear it once it is mended.

`esper drill` is their command line. A drill is a generator that yields three times: when all is well, when its fault is
in, and when it is out again. `alarms` asks Prometheus meanwhile.
"""
