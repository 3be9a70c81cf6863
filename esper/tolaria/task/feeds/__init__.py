"""Batches, by the number of a step: of sets in memory, or as a user's own loaders make them, in any form.

Their position can be restored. Judging and test data are read once and kept, so that every look is at the same samples
in the same order.
"""
