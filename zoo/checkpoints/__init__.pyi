from .files import CheckpointError as CheckpointError
from .load import load_checkpoint as load_checkpoint
from .pretrained import fetch_pretrained as fetch_pretrained
from .read import Checkpoint as Checkpoint
from .read import read_checkpoint as read_checkpoint
from .write import in_layout as in_layout
from .write import save_deployed as save_deployed
from .write import save_weights as save_weights
