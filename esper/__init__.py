"""Esper: a control plane that grows PyTorch networks while they train."""
