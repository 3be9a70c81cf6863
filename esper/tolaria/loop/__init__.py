"""One step of everything that trains, and the boundary between two steps where the control plane is heard.

Imports task, record and plane; what happens when a run goes back is recovery's.
"""
