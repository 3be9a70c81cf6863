"""What is trained: data and its splits, models, losses, batches, the schedule, and a run prepared from all of them.

Stands on the settings alone; knows neither steps nor services.
"""
