"""Training on several machines: Ray Train around `arriero.training.train`, which runs in every worker as it is.

driver.py    train() on a cluster: what it needs, the run as the driver sees it, the finished directory
loop.py      what a worker does: restore, train, report
progress.py  what workers and driver tell each other
storage.py   a run's checkpoints in a place that all machines reach
"""
