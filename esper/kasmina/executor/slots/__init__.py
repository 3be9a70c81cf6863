"""Where a seed may go: width layers, what stands between them, the paths that prove it, and the slots that follow.

Imports passes alone.
"""
