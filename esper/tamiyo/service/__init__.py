"""Requests to Tamiyo: who may ask, and from a packet to a signed decision."""
