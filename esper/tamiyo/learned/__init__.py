"""The learned part of the policy: what it observes, what it explores, weights, and how new ones come into force.

Nothing here needs torch: weights are read from safetensors and multiplied by NumPy.
"""
