"""Urza: the blueprint catalogue and artefact store. What can be grown, where it fits, what it costs."""
