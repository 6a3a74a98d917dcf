"""The training runs of this machine, whatever started them. It starts, stops and watches them; it never trains.

    registry.py   a record of every run, under ARRIERO_HOME
    state.py      how a run stands, from what is on disk
    metrics.py    metrics.jsonl while it grows
    process.py    a run as a process that outlives who started it; a plan as one that does not

On disk, ID being made of the output directory's path:

    ARRIERO_HOME/runs/ID/run.json     what was asked for: output directory, data, model, system prompt, options
    ARRIERO_HOME/runs/ID/train.yaml   the same as a configuration file
    ARRIERO_HOME/runs/ID/train.log    what the process said
    ARRIERO_HOME/runs/ID/.alive       a lock that the process holds
    ARRIERO_HOME/runs/ID/exit         its exit code
    ARRIERO_HOME/runs/ID/error        why training failed, written by the run itself

Whether a run is running is what its locks say, never a number of a process that was written down.
"""

from arriero.runs.metrics import Metrics
from arriero.runs.process import Planning, start, stop
from arriero.runs.registry import Record, forget, listed, registered
from arriero.runs.state import State, log_tail, state_of

__all__ = [
    "Metrics",
    "Planning",
    "Record",
    "State",
    "forget",
    "listed",
    "log_tail",
    "registered",
    "start",
    "state_of",
    "stop",
]
