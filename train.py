"""Train a network: see `python train.py --help`."""

import sys

from zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(command="train"))
