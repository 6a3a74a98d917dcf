"""More than one machine: engines as Ray Serve replicas, training by Ray Train's workers.

The only room that imports ray. Everything here is an adapter between what Arriero does on one machine and what Ray
does on several: no scheduler, router, health check or rendezvous of our own.

    connect.py    into a cluster and out of it; what its nodes have; Ray's errors as ours
    token.py      without one no cluster is used
    report.py     what `arriero doctor --ray` says of a cluster
    compat.py     ray's private names
    serving/      engines as replicas
    training/     training by several workers
"""
