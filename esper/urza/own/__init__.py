"""A user's own blueprints: a Python factory, its tensors and a safety sheet, kept by content and believed by signature.

One chain of digests: the signature covers the blueprint with its sheet, the blueprint its recipe, the recipe the files.
Nothing here runs or even reads a factory; who does loads it from the bytes that were verified.
"""
