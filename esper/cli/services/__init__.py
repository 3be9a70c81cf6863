"""The services of a plane: started, called, warned, and the keys that they know each other by."""
