"""Oona: the message bus. A SQLite log by default, Redis Streams where there is one, behind one protocol.

Every envelope is signed by its publisher, stored before it is acknowledged, delivered to each group at least once, and
put aside after five failed deliveries. Consumers deduplicate by event id.
"""
