"""Going on after a kill, a rollback or a lost generation: checkpoints, snapshots, and what is put back from them.

Imports everything below; the trainer alone drives it.
"""
