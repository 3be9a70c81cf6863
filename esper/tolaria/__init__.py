"""Tolaria: the trainer. It owns the model and the loop; what grows in it is decided by the control plane.

Rooms, each importing only those below it: `recovery`, `loop`, `plane`, `record`, `task`. Above them the front door:
`launcher`, `run`, `trainer`.
"""
