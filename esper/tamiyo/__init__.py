"""Tamiyo: policy and risk. Decides from a run's packets when to grow, what to keep and what to cull.

Read `deciding/decide.py` first: it is the summary of an evaluation.
"""
