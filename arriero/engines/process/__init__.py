"""An engine in a process of its own: what all that compute so have in common.

process.py   the worker process as its engine sees it: commands go in, events come out and fill generations
worker.py    what the worker process does between them

A step may hold Python's lock from beginning to end, and a fault in native code ends the process; here neither stops
whoever serves.
"""
