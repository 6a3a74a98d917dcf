"""An engine in a process of its own: what all that compute so have in common.

process.py   the worker process as its engine sees it: commands go in, events come out and fill generations
engine.py    what such engines have in common: starting it again where it died, with all adapters that are held
worker.py    what the worker process does between commands and events; its logs and warnings are forwarded
crossing.py  what has to arrive as it was: typed errors, sampling, log-probabilities

A step may hold Python's lock from beginning to end, and a fault in native code ends the process; here neither stops
whoever serves.
"""
