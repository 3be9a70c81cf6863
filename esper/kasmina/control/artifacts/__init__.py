"""Artefacts: what a seed is built from, read once, verified, counted, behind a breaker."""
