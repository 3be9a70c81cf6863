"""Faults to inject, for the harness and for drills: in processes, in training, in files, in artefacts, in load."""
