"""Weatherlight: supervisor and telemetry router.

Knows which services live, in which mode the plane is and why, takes telemetry onto the bus, hosts the bus and Nissa.
"""
