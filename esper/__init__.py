"""Esper: a control plane that grows PyTorch networks while they train."""

__version__ = "0.1.0"
