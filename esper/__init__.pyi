from esper.tolaria.config import TrainConfig as TrainConfig
from esper.tolaria.door.data import Data as Data
from esper.tolaria.door.train import Result as Result
from esper.tolaria.door.train import train as train

__version__: str
