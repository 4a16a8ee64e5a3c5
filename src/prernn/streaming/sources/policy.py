"""What happens to frames that come faster than they are taken.

A policy is a text, in `prernn.Source` and on the command line:

- ``none`` loses nothing: the reader waits, and with it the sender;
- ``oldest`` keeps the newest: if the queue is full, the frame that has waited longest is dropped;
- ``every:N`` takes every N-th frame and waits for those, like ``none``.
"""

from typing import NamedTuple


class Policy(NamedTuple):
    """A policy in the form that the queue needs.

    Attributes:
        every: one frame out of this many is taken, the first.
        waits: whether the reader waits if the queue is full.
    """

    every: int = 1
    waits: bool = True


def drop_policy(text: str) -> Policy:
    """Reads a policy's text.

    Example:
        >>> from prernn.streaming.sources.policy import drop_policy
        >>> drop_policy("every:3")
        Policy(every=3, waits=True)

    Raises:
        ValueError: the text is no policy.
    """
    if text in ("none", "oldest"):
        return Policy(waits=text == "none")
    name, _, number = str(text).partition(":")
    if name == "every" and number.isascii() and number.isdigit() and int(number) > 0:
        return Policy(every=int(number))
    raise ValueError(f"drop: expected none, oldest or every:N with N above 0, got {text!r}")


class Defaults(NamedTuple):
    """How a kind of source is read by default.

    Attributes:
        drop: the policy.
        timeout: seconds without a frame after which it counts as lost; infinity waits forever.
        reconnect: number of consecutive attempts to reconnect.
    """

    drop: str
    timeout: float
    reconnect: int


TRIES = 8
"""Attempts to reconnect: with the pauses of `BACK_OFF` they take a minute and a half, enough for a camera to reboot."""

BACK_OFF = (0.5, 30.0)
"""Seconds before the first attempt to reconnect, and the maximum; each pause is twice as long as the previous one."""

ENDLESS = float("inf")

BY_KIND = {
    "file": Defaults("none", ENDLESS, 0),
    "folder": Defaults("none", ENDLESS, 0),
    "pipe": Defaults("none", 10.0, 0),  # the writer waits; what was written before can't be read again
    "camera": Defaults("oldest", 10.0, TRIES),
    "stream": Defaults("oldest", 10.0, TRIES),
}
"""The defaults by the kind of a `prernn.media.source.Place`."""

STORED = Defaults("none", 10.0, 0)
"""The defaults of a network stream that turns out to be a finite recording, which can be read as fast as needed."""


def pause(tries: int, back_off: tuple[float, float] = BACK_OFF) -> float:
    """Seconds to wait after this many consecutive failed attempts, counting from 0.

    Example:
        >>> from prernn.streaming.sources.policy import pause
        >>> [pause(tries) for tries in range(8)]
        [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    """
    first, most = back_off
    return min(first * 2.0 ** min(tries, 64), most)
