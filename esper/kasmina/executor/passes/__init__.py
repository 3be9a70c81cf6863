"""Passes through a network that leave no trace: keyed draws, side passes, traces of shapes; what a task must offer."""
