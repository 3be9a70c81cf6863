"""Simic: the policy trainer. It keeps field reports, learns what growth is worth, and publishes what holds up.

Reports come over the bus and are kept once each; a Bayesian linear bandit is fitted to them; a gate on runs that it was
not fitted to decides whether its weights are published, signed, for Tamiyo to try.
"""
