"""zoo: structurally re-parameterizable networks that train as many branches and deploy as one convolution.

>>> import zoo
>>> model = zoo.create_model("repvgg_a0")
>>> deployed = zoo.deploy(model.eval())
"""

from zoo import models  # fills the registry
from zoo.checkpoints import CheckpointError, load_checkpoint, read_checkpoint
from zoo.export import compile_for
from zoo.registry import create_model, list_models, model_entry, register_model
from zoo.reparam.convert import convert, expand
from zoo.reparam.deploy import DeployReport, deploy, deploy_with_report, is_deployed
from zoo.reparam.verify import EquivalenceError

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "DeployReport",
    "EquivalenceError",
    "compile_for",
    "convert",
    "create_model",
    "deploy",
    "deploy_with_report",
    "expand",
    "is_deployed",
    "list_models",
    "load_checkpoint",
    "model_entry",
    "models",
    "read_checkpoint",
    "register_model",
]
