"""What becomes of frames that come faster than they are taken.

A policy is a text, in `prernn.Source` and on the command line:

- ``none`` loses nothing: the reader waits, and with it whatever sends;
- ``oldest`` keeps the newest: where the queue is full, the frame that has waited longest goes;
- ``every:N`` takes each N-th frame and waits for those, as ``none``.
"""

from typing import NamedTuple


class Policy(NamedTuple):
    """A policy as the queue wants it.

    Attributes:
        every: of so many frames one is taken, the first.
        waits: whether the reader waits where the queue is full.
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
        ValueError: another text.
    """
    if text in ("none", "oldest"):
        return Policy(waits=text == "none")
    name, _, number = str(text).partition(":")
    if name == "every" and number.isascii() and number.isdigit() and int(number) > 0:
        return Policy(every=int(number))
    raise ValueError(f"drop: expected none, oldest or every:N with N above 0, got {text!r}")


class Defaults(NamedTuple):
    """How a kind of source is read where nobody says otherwise.

    Attributes:
        drop: the policy.
        timeout: seconds without a frame after which it counts as lost; infinity waits for ever.
        reconnect: how often in a row it is tried again.
    """

    drop: str
    timeout: float
    reconnect: int


TRIES = 8
"""Tries to reconnect: with the pauses of `BACK_OFF` a minute and a half, enough for a camera to start again."""

BACK_OFF = (0.5, 30.0)
"""Seconds before the first try to reconnect, and at most; each pause is twice as long as the one before."""

ENDLESS = float("inf")

BY_KIND = {
    "file": Defaults("none", ENDLESS, 0),
    "folder": Defaults("none", ENDLESS, 0),
    "pipe": Defaults("none", 10.0, 0),  # whoever writes waits; what was written before can't be had again
    "camera": Defaults("oldest", 10.0, TRIES),
    "stream": Defaults("oldest", 10.0, TRIES),
}
"""Defaults by the kind of a `prernn.media.source.Place`."""

STORED = Defaults("none", 10.0, 0)
"""Those of a network stream that turns out to be a recording, with an end: it can be read as fast as it is needed."""


def pause(tries: int, back_off: tuple[float, float] = BACK_OFF) -> float:
    """Seconds to wait after so many tries in a row that failed, counting from 0.

    Example:
        >>> from prernn.streaming.sources.policy import pause
        >>> [pause(tries) for tries in range(8)]
        [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    """
    first, most = back_off
    return min(first * 2.0 ** min(tries, 64), most)
