"""What networks hold, weights and everything else: read as plain content, put back, copied whole, digested.

The lowest room: imports none of the executor's others.
"""
