"""Cli: the `esper` command. One file per group of verbs; each declares its flags and runs its verbs."""
