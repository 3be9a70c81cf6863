"""What is done to seeds, stacks and the optimiser at a boundary: by directives, and what falls due beside them."""
