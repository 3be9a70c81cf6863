"""Control: who may change a seed, when, and by which evidence. Decides; never touches a tensor.

`authority` answers every request out of these rooms: `ledger` (what is stored), `orders` (what a command does),
`stages` (where a seed stands), `judge` (whether growth paid), `artifacts` and `prefetch` (what a seed is built from).
"""
