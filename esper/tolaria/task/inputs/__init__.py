"""What is done to inputs before a network sees them: fitted on the training set alone, the same in all three sets."""
