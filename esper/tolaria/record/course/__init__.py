"""The course of a run as a file of events: written, read back, and what a line must hold."""
