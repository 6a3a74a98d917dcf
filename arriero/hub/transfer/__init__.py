"""Fetching the files of a repository: in parallel, resumed after anything, hashed while they stream.

progress.py   what a download says of itself while it runs
clients.py    how each hub's own client asks for a file: address, token, proxy, certificates, timeout
retry.py      how often a busy hub is asked again, and how long after
part.py       one file on its way: NAME.part, what is known of it, its SHA-256
file.py       one file: what is on disk already, Range, retries, and what arrived held against the listing
pool.py       all files at once, stopped by the first failure or Ctrl-C
caches.py     files that the hubs' own clients have fetched before
"""

from arriero.hub.transfer.clients import Files, files_of
from arriero.hub.transfer.part import names
from arriero.hub.transfer.pool import fetch
from arriero.hub.transfer.progress import Progress, Watch
from arriero.hub.transfer.retry import retried

__all__ = ["Files", "Progress", "Watch", "fetch", "files_of", "names", "retried"]
