"""What a message must hold to be believed: required fields and rules as data, and one validator."""
