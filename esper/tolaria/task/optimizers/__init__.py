"""How weights change: the optimiser over its parameter groups, and the rate of each step."""
