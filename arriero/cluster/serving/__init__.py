"""An engine as replicas of a Ray Serve deployment, behind the interface that all engines have.

    server, chat ─> RayEngine ─ handle ─> Replica ─> engine      ids back, as many at once as there are
                                     └──> Replica ─> engine

The process that serves has the only door, the keys, the names, the limits; replicas get prompt ids and give ids.

    deploy.py     load(): arriero.load, and with `ray` over replicas, once all nodes have what these need
    scale.py      how many replicas, and what each takes of a node
    engine.py     RayEngine: submit, cancel, load_adapter over a Serve handle; going on elsewhere after a loss
    replica.py    the deployment around one engine: adapters on first use, health
    protocol.py   what crosses
"""
