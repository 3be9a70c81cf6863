"""What a run tells of itself: progress and history, events, scalars, telemetry, the display, summary and comparison.

Observers hear values and decide nothing. Imports the task; loop, plane and recovery tell it, it never asks them.
"""
