"""How the trainer talks to the services: opening a run, packets out, answers in, each at its own packet.

No call stands in a step. Imports task and record; steps and checkpoints don't concern it.
"""
