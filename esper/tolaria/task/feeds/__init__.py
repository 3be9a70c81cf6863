"""Batches that a user's own loaders make: by the number of a step, in any form, with a position that can be restored.

Judging and test data are read once and kept, so that every look is at the same samples in the same order.
"""
