"""Settings for the whole suite."""

import torch

# The suite runs in parallel (pytest -n); a test whose convolutions take all cores only slows the others down.
torch.set_num_threads(1)
