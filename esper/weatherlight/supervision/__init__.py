"""Who lives, what is open, and what mode follows: the supervisor of services, emergencies and the plane's mode."""
