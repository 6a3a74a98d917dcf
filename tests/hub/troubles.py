"""What becomes of a request for a file on the hub of `hubs.py`: it is cut off, falls silent, is refused …"""

from __future__ import annotations

from collections.abc import Callable

from tests.hub.hubs import Handler

Trouble = Callable[[Handler, bytes], None]


def status(code: int, **headers: str) -> Trouble:
    """Answer with this HTTP status; an underscore in a header's name is a hyphen."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, data: handler._send(code, b"{}", names)


def cut(after: int) -> Trouble:
    """Close the connection after so many bytes."""

    def trouble(handler: Handler, data: bytes) -> None:
        handler.serve(data, stop=after)
        handler.close_connection = True

    return trouble


def stall(after: int) -> Trouble:
    """Fall silent after so many bytes, until the gate is opened."""

    def trouble(handler: Handler, data: bytes) -> None:
        handler.server.gate.clear()
        handler.serve(data, stop=after)
        handler.server.reached.set()
        handler.server.stalled.set()
        handler.server.gate.wait()
        handler.close_connection = True

    return trouble


def altered(change: Callable[[bytes], bytes]) -> Trouble:
    """Serve other bytes than the listed ones."""
    return lambda handler, data: handler.serve(change(data))


def redirect(url: str) -> Trouble:
    """Send the client to another host for the same path."""
    return lambda handler, data: handler._send(302, b"", {"Location": url + handler.path})
