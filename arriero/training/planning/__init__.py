"""How a run is computed, decided before it starts.

mode.py      whether this model may share prefixes, be packed, or has to be padded, and why
plan.py      length of rows and recomputation, so that a step fits into memory
estimate.py  what training would cost here, before anything is loaded
forecast.py  what a run would do, and how long it takes by earlier runs or by that estimate

"""
