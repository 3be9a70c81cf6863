"""The evidence for a seed: its incubation, its isolation, paired scores against the twin, and what all of it costs.

Imports grafts and below.
"""
