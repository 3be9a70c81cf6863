"""The live page of runs, which `esper ui` serves: a server on loopback that reads what a run's directory holds.

Nothing here talks to a trainer: the page costs the training thread nothing but the lines it writes anyway. `web` holds
the page's sources, `tools/ui` builds them into `esper/tolaria/record/page/static`, which the report shares.
"""
