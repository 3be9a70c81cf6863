"""What a process tells Weatherlight by itself: that it is there, its telemetry, and the emergencies that it raises."""
