"""When the state of a stream starts anew by itself, as `prernn.streaming.resets` has it.

A policy is a text: ``never``; ``cut``, a boundary of shots; ``idle:SECONDS`` without change or frames; ``every:N``, a
state that is N/2 to N frames old, for which the network runs twice.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

GRID = 16
"""Cells a side of the thumbnails that are compared."""

CUT_CHANGE, CUT_RATIO, CUT_MEMORY, CUT_LEAST = 16.0, 2.5, 8, 3
"""Of a cut: its change, of 255; its ratio to the largest of the changes before, how many those are, and how many at
least."""

STILL = 6.0
"""Change of a cell, of 255, up to which a picture is still."""


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The means of 16 x 16 cells of a uint8 picture ``(H, W, 3)``, float32 ``(16, 16, 3)`` from 0 to 255.

    Raises:
        NotImplementedError: something else than a picture.
    """
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise NotImplementedError(
            f"a reset by what the picture shows expects uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}: "
            "hand the picture to stream.look(picture, time) before stream(frame)"
        )
    pixels = np.ascontiguousarray(pixels[:: max(1, len(pixels) // (8 * GRID))])
    return np.asarray(Image.fromarray(pixels).resize((GRID, GRID), Image.Resampling.BOX), np.float32)


class Cut:
    """Finds boundaries of shots: a change of the picture that is large, and larger than the motion before it."""

    timed = False

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As before the first picture."""
        self._before: np.ndarray | None = None  # (16, 16, 3)
        self._changes: deque[float] = deque(maxlen=CUT_MEMORY)

    def due(self, picture: np.ndarray, time: float) -> bool:
        """Whether the state is to start anew with this picture, given as its thumbnail."""
        before, self._before = self._before, picture
        if before is None:
            return False
        change, known = float(np.abs(picture - before).mean()), self._changes
        cut = len(known) >= CUT_LEAST and change > CUT_CHANGE and change > CUT_RATIO * max(known)
        if cut:
            known.clear()
        else:
            known.append(change)
        return cut

    def memory(self) -> dict[str, np.ndarray]:
        """What it remembers; empty before a picture."""
        if self._before is None:
            return {}
        changes = [*self._changes, *[math.nan] * (CUT_MEMORY - len(self._changes))]
        return {"picture": self._before, "changes": np.array(changes)}

    def recall(self, memory: dict[str, np.ndarray]) -> None:
        """Goes on with what `memory` gave."""
        self.forget()
        if memory:
            self._before = memory["picture"].astype(np.float32)
            self._changes.extend(change for change in memory["changes"].tolist() if not math.isnan(change))


class Idle:
    """Finds idleness: no cell of the thumbnail has changed by more than `STILL`, or no frame come, for so long.

    The state starts anew when so long has passed, once, and again with the change that ends it.

    Args:
        seconds: how long.
    """

    timed = True

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.forget()

    def forget(self) -> None:
        """As before the first picture."""
        self._shown: np.ndarray | None = None  # (16, 16, 3), when it last changed
        self._still, self._idle, self._latest = 0.0, False, 0.0

    def due(self, picture: np.ndarray, time: float) -> bool:
        """Whether the state is to start anew with this picture, given as its thumbnail, at this time in seconds."""
        passed, self._latest = max(0.0, time - self._latest), time
        if self._shown is None or passed >= self.seconds:
            first, self._shown = self._shown is None, picture
            self._still, self._idle = 0.0, False
            return not first
        if float(np.abs(picture - self._shown).max()) > STILL:
            idle, self._shown = self._idle, picture
            self._still, self._idle = 0.0, False
            return idle
        self._still += passed
        if self._idle or self._still < self.seconds:
            return False
        self._idle = True
        return True

    def memory(self) -> dict[str, np.ndarray]:
        """What it remembers; empty before a picture."""
        if self._shown is None:
            return {}
        return {"picture": self._shown, "times": np.array([self._still, float(self._idle), self._latest])}

    def recall(self, memory: dict[str, np.ndarray]) -> None:
        """Goes on with what `memory` gave."""
        self.forget()
        if memory:
            self._shown = memory["picture"].astype(np.float32)
            self._still, idle, self._latest = memory["times"].tolist()
            self._idle = bool(idle)


SHAPES = {"picture": (GRID, GRID, 3), "changes": (CUT_MEMORY,), "times": (3,)}
"""Of what policies remember, by name."""


def reset_policy(text: str) -> Cut | Idle | int | None:
    """A policy's text as what looks at the pictures of one stream, N for ``every:N``, or None for ``never``.

    Raises:
        ValueError: another text.
    """
    if text in ("never", "cut"):
        return Cut() if text == "cut" else None
    name, _, argument = str(text).partition(":")
    try:
        if name == "idle" and 0 < (seconds := float(argument)) < math.inf:
            return Idle(seconds)
        if name == "every" and (frames := int(argument)) >= 2 and frames % 2 == 0:
            return frames
    except ValueError:
        pass  # a number that is none is said below
    raise ValueError(
        f"reset: expected never, cut, idle:SECONDS with more than 0, or every:N with an even number of frames, "
        f"got {text!r}"
    )


class Eyes:
    """The policies of several streams side by side, each with a memory of its own.

    Args:
        text: of the policy, ``cut`` or ``idle:SECONDS``.
        streams: how many.
    """

    def __init__(self, text: str, streams: int):
        self._text = text
        self._policies: list[Any] = [reset_policy(text) for _ in range(streams)]

    def forget(self) -> None:
        """As before the first picture."""
        for policy in self._policies:
            policy.forget()

    def due(self, pictures: Sequence[np.ndarray], time: float | Sequence[float] | None) -> list[int]:
        """Numbers of the streams that start anew with these pictures, one of each stream.

        Raises:
            ValueError: no time, where the policy needs one; times that are not one of each stream.
        """
        if time is None and self._policies[0].timed:
            raise ValueError(f"reset {self._text!r}: expected the time of each frame in seconds, got none")
        given = np.asarray(0.0 if time is None else time, float)
        if given.ndim and given.shape != (len(pictures),):
            raise ValueError(f"expected one time, or one of each of {len(pictures)} streams, got {time}")
        times: list[float] = np.broadcast_to(given, len(pictures)).tolist()
        rows = zip(self._policies, [thumbnail(picture) for picture in pictures], times, strict=True)
        return [row for row, (policy, seen, now) in enumerate(rows) if policy.due(seen, now)]

    def memory(self) -> dict[str, np.ndarray]:
        """What the policies remember, batch first."""
        rows = [policy.memory() for policy in self._policies]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def checked(self, memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The memory of such policies; ValueError where it is that of others."""
        wanted = {name for name in SHAPES if name != ("changes" if self._policies[0].timed else "times")}
        if memory and set(memory) != wanted:
            raise ValueError(f"expected the memory of reset {self._text!r}, {sorted(wanted)}, got {sorted(memory)}")
        for name, value in memory.items():
            if value.shape != (shape := (len(self._policies), *SHAPES[name])):
                raise ValueError(f"expected reset_{name} of shape {shape}, got {value.shape}")
        return memory

    def recall(self, memory: dict[str, np.ndarray]) -> None:
        """Goes on with what `memory` gave."""
        for row, policy in enumerate(self._policies):
            policy.recall({name: value[row] for name, value in memory.items()})
