"""Whether an installation and a live plane are what they should be: looked at, measured, broken on purpose."""
