"""What the commands that train and validate leave and print."""

import json


def results_of(run):
    return json.loads((run[0] / "results.json").read_text())


def last_json(text):
    """What `--json` prints: nothing else is on stdout."""
    (line,) = text.splitlines()
    return json.loads(line)
