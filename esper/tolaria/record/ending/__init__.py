"""What is told of a run when it ends: summary, comparison, and whether the record fits the network."""
