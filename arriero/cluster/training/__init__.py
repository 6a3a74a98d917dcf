"""Training on several machines: Ray Train around `arriero.training.train`, which runs in every worker as it is.

driver.py     train() on a cluster: the run as the command sees it, and the finished directory
fit.py        Ray Train around the loop; the options that only Ray has
loop.py       what a worker does: restore, train, report
progress.py   the actor over which workers and driver reach each other
resources.py  what workers take of the nodes
storage.py    a run's checkpoints in a place that all machines reach
"""
