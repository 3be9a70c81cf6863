"""The bus under fire: Weatherlight, Redis and consumers are killed in turn under load, and every message is counted.

`publisher` writes down what was acknowledged to it, `consumer` what it handled, `fire` kills and `ledger` compares.
"""
