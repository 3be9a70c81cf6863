"""A seed in a network: training arms, taps, blends, changed parameters, and the optimiser's side of it.

Imports slots and passes; beside it stand the blueprints, which build what is grafted.
"""
