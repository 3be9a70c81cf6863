"""What is to be learned: the loss that trains, the score that judges, and whether model and data agree on it."""
