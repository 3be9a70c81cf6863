"""Nissa: observability.

Takes telemetry and field reports from the bus, shows them to Prometheus, raises and clears alerts.
"""
