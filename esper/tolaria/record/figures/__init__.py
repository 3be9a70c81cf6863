"""Figures of a run that are kept while it trains: costs, best epoch, gradients, graphs."""
