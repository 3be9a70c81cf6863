"""A finished run's network as a file for others: proven before it is called done, and without a byte of anybody's data.

Needs the checkpoint alone: neither the run's data nor its device. Imports the recovery room and those below.
"""

from esper.tolaria.export.network import Network, load_network, shown_network
from esper.tolaria.export.writing import Exported, export, write

__all__ = ["Exported", "Network", "export", "load_network", "shown_network", "write"]
