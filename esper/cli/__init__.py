"""Cli: the `esper` command, in rooms by what its verbs act on; a file for each group of verbs, with their flags."""
