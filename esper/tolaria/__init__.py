"""Tolaria: the trainer. It owns the model and the loop; what grows in it is decided by the control plane."""
