"""What a network starts from where that isn't random, and which of its parts stay as they are."""
