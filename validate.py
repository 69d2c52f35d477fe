"""Score a network on a labelled image set: see `python validate.py --help`."""

import sys

from zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(command="validate"))
