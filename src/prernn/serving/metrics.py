"""The server's counters, for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in its own registry.

    Attributes:
        clients: clients connected now.
        joined: all clients so far, by what they came for, "stream" or "video".
        left: clients that have gone, by reason: "end", "left", "idle", "refused", "unread", "stop", "error".
        turned_away: clients that were not accepted, by reason: "full", "hello", "token", "origin", "stopping".
        frames: frames by outcome: "answered", "dropped" for newer ones or because of the limits, "skipped" by the
            clock, "refused"; "held" counts ticks without a new frame.
        answer: seconds from a frame's arrival to its answer.
        step: seconds that a step of the network takes.
        streams: number of streams in a step.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "prernn"}
        self.clients = Gauge("clients", "connected now", **own)
        self.joined = Counter("joined", "clients that came", ["kind"], **own)
        self.left = Counter("left", "clients that went", ["why"], **own)
        self.turned_away = Counter("turned_away", "clients that were not let in", ["why"], **own)
        self.frames = Counter("frames", "frames that came", ["outcome"], **own)
        self.answer = Histogram("answer_seconds", "from a frame's arrival to its answer", buckets=SECONDS, **own)
        self.step = Histogram("step_seconds", "that a step of the network takes", buckets=SECONDS, **own)
        self.streams = Histogram("step_streams", "streams in a step of the network", buckets=ROWS, **own)

    def stepped(self, rows: int, seconds: float) -> None:
        """Counts a step."""
        self.step.observe(seconds)
        self.streams.observe(rows)

    def text(self) -> bytes:
        """The counters in Prometheus' text format."""
        return generate_latest(self.registry)
