"""Decisions that can be told and made again: their ledger, their words, and what became of them when replayed."""
