"""How much one request may hold, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass, fields

from irpo.types import UserError

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a server takes; each is a number above 0."""

    body_mib: float = 4  # of one request, as it is sent
    held_mib: float = 256  # bodies of all requests that are not answered yet, and what is read from them
    documents: int = 1000  # of one request
    text_tokens: int = 32_768  # of the query, and of each document
    tokens: int = 262_144  # of the query and all documents together
    queue: int = 256  # requests that wait to be ranked
    at_work: int = 1000  # requests that are read, ranked or answered
    head: float = 10  # seconds that a request's head may take
    head_kib: float = 64  # of a request's head, and of what follows a body that is sent in chunks
    timeout: float = 60  # seconds that a request's body may take, and then its ranking, and then to take the answer
    stop: float = 7  # seconds that requests have to end once the server is told to stop

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"{field.name.replace('_', ' ')} is {getattr(self, field.name)}; give a number above 0")

    @property
    def body(self) -> int:
        """Bytes of one body."""
        return int(self.body_mib * MIB)

    @property
    def held(self) -> int:
        """Bytes of all bodies and their values that are in the process."""
        return int(max(self.held_mib, self.body_mib) * MIB)


class Refused(Exception):
    """A request that is not answered; its message goes to the client, so it holds no path and none of its texts."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class Gone(Exception):
    """The client went away; there is nobody to answer."""
