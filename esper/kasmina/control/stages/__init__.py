"""Stages: where a seed stands, and what moves it on: the table of moves, the gates, time, reports, a pause."""
