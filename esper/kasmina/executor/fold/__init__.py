"""A kept seed as plain PyTorch: its weights in the host's layers, its moments in the optimiser's, a file of its own.

Imports grafts, blueprints and below.
"""
