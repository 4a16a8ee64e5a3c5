"""The clients: they are accepted, counted, and disconnected when the server stops."""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from prernn.serving.limits import Limits
from prernn.serving.metrics import Metrics
from prernn.serving.model import Model
from prernn.serving.session import Session


class TurnedAway(Exception):
    """Raised for a client that is not accepted.

    Args:
        why: "full", "stopping", "token" or "origin", as `Metrics.turned_away` counts it.
        text: the message for the client.
    """

    def __init__(self, why: str, text: str):
        super().__init__(text)
        self.why = why


@dataclass
class Service:
    """A model, and the clients that use it.

    Attributes:
        model: what is served.
        limits: limits for each client.
        token: the token that clients must send; None if there is none.
        metrics: the server's counters.
        stopping: whether no more clients are accepted.
        stopped: whether waiting frames are abandoned, too.
    """

    model: Model
    limits: Limits
    metrics: Metrics
    token: str | None = None
    stopping: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._sessions: dict[int, Session] = {}
        self._places: set[int] = set()
        self._at_the_door = 0

    @contextlib.contextmanager
    def greeting(self) -> Iterator[None]:
        """A place for a client that has not sent its hello yet. Raises TurnedAway if there is none."""
        if self._at_the_door >= self.limits.clients:
            raise TurnedAway("full", "too many clients are connecting: try again later")
        self._at_the_door += 1
        try:
            yield
        finally:
            self._at_the_door -= 1

    def enter(self, kind: str) -> int:
        """A place for a client, as its number. Raises TurnedAway if there is none."""
        if self.stopping:
            raise TurnedAway("stopping", "the server is stopping: try again when it is back")
        if len(self._places) >= self.limits.clients:
            raise TurnedAway("full", f"the server has its {self.limits.clients} clients: try again later")
        number = next(self._numbers)
        self._places.add(number)
        self.metrics.joined.labels(kind).inc()
        self.metrics.clients.set(len(self._places))
        return number

    def leave(self, number: int, why: str) -> None:
        """Frees a client's place."""
        if number not in self._places:
            return
        self._places.remove(number)
        self._sessions.pop(number, None)
        self.metrics.left.labels(why).inc()
        self.metrics.clients.set(len(self._places))

    def admits(self, token: str | None) -> bool:
        """Whether a token is the right one."""
        return self.token is None or (token is not None and secrets.compare_digest(token.encode(), self.token.encode()))

    def check(self, *tokens: str | None) -> None:
        """Raises TurnedAway if none of the tokens is the right one."""
        if not any(self.admits(token) for token in tokens):
            raise TurnedAway("token", "expected the server's token, got " + ("another" if any(tokens) else "none"))

    def begin(self, number: int, session: Session) -> None:
        """Starts a client's stream."""
        self._sessions[number] = session
        session.start(number)
        if self.stopping:
            session.end("stop")

    async def drain(self, seconds: float) -> None:
        """Accepts no clients, answers waiting frames, and says goodbye to all; after ``seconds`` it ends at once."""
        self.stopping = True
        for session in list(self._sessions.values()):
            session.end("stop")
        for _ in range(max(1, round(seconds / 0.05))):
            if not self._places:
                return
            await asyncio.sleep(0.05)
        self.stopped = True
        for session in list(self._sessions.values()):
            session.end("stop", at_once=True)
