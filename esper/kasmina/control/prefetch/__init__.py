"""Artefacts before they are needed: asked for over the bus, verified by Urza, at hand when a seed is built.

`prefetcher` holds the requests that are under way, each with a timer and one end; `lines` carries them to Urza and the
answers back.
"""
