"""Writing: every layout back out bit for bit, and deployed networks into stock ones."""

import json

import pytest
import reference
import timm
import torch
import torchvision
from blocks import randomise

import zoo
from zoo.checkpoints import read_checkpoint, save_deployed
from zoo.checkpoints.write import in_layout
from zoo.cli.convert_checkpoint import main
