"""The real run: a small GPT, one process or FSDP2, that writes traces."""

if __name__.partition(".")[0] != "optgeom":
    raise ImportError("write 'import optgeom.trainer'")

from optgeom.trainer.config import TrainConfig
from optgeom.trainer.demo import DemoResult, demo
from optgeom.trainer.errors import ConfigError
from optgeom.trainer.planning.machine import Machine
from optgeom.trainer.planning.plan import Plan, plan
from optgeom.trainer.progress import Listener, ProgressBar
from optgeom.trainer.settings import config_from_dict, load_config, presets
from optgeom.trainer.train import TrainResult, train

__all__ = [
    "ConfigError",
    "DemoResult",
    "Listener",
    "Machine",
    "Plan",
    "ProgressBar",
    "TrainConfig",
    "TrainResult",
    "config_from_dict",
    "demo",
    "load_config",
    "plan",
    "presets",
    "train",
]
