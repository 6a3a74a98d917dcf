"""The page of training runs.

    sources.py   which data and models are offered, and where adapters go
    fields.py    a widget for each training option, made from TrainOptions
    form.py      what a new run is asked to do
    planned.py   the plan of it, and its start
    listing.py   all runs
    watch.py     one run while it lasts
    result.py    what came of it

Whoever visits sees the same runs: what a run is lies on disk, and the session holds only what is being filled in.
"""
