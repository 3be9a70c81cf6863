"""Many processes on one run: what they tell each other, and how their gradients become one.

All ranks make the same steps with the same network. Each passes its own share of every batch; gradients are summed
before the optimiser sees them, so that N ranks compute what one would.
"""
