"""Networks that are built from a configuration: what it can say of a grown one, and a loader where it can't.

Known by what they have, `save_pretrained` and `config`; transformers is never imported. Imports slots and passes.
"""
