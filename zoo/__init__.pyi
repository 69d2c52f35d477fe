from . import models as models
from .checkpoints import CheckpointError as CheckpointError
from .checkpoints import load_checkpoint as load_checkpoint
from .checkpoints import read_checkpoint as read_checkpoint
from .export import compile_for as compile_for
from .registry import create_model as create_model
from .registry import list_models as list_models
from .registry import model_entry as model_entry
from .registry import register_model as register_model
from .surgery.convert import convert as convert
from .surgery.convert import expand as expand
from .surgery.deploy import DeployReport as DeployReport
from .surgery.deploy import deploy as deploy
from .surgery.deploy import deploy_with_report as deploy_with_report
from .surgery.deploy import fold as fold
from .surgery.deploy import is_deployed as is_deployed
from .surgery.verify import EquivalenceError as EquivalenceError

__version__: str
