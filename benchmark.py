"""Measure networks: see `python benchmark.py --help`."""

import sys

from zoo.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
