"""Passes through a network that leave no trace: keyed draws, side passes, traces of shapes, and what a task must offer.

The lowest room: imports none of the executor's others.
"""
