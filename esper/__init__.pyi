from esper.core.errors import DoubtWarning as DoubtWarning
from esper.tolaria.config import TrainConfig as TrainConfig
from esper.tolaria.door.change import Change as Change
from esper.tolaria.door.data import Data as Data
from esper.tolaria.door.display import Display as Display
from esper.tolaria.door.growth import Growth as Growth
from esper.tolaria.door.script import Context as Context
from esper.tolaria.door.train import Result as Result
from esper.tolaria.door.train import train as train

__version__: str
