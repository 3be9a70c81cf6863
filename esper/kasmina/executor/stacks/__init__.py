"""Growing in depth: runs of equal blocks, and their repetition with weights and optimiser state copied.

Imports passes alone; a training arm repeats runs, and nothing here knows of seeds.
"""
