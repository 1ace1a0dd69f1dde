"""Where a server listens: known, and taken, before a model is loaded."""

from __future__ import annotations

import ipaddress
import socket

from irpo.types import UserError


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet; `UserError` where the address is taken or nobody's."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "this is no host's name"
        raise UserError(f"--host {host} --port {port}: {why}; give another") from None
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def address_of(bound: socket.socket) -> str:
    """The URL under which the socket is reached."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
