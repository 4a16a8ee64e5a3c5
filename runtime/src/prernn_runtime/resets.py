"""When the state of a stream is reset automatically, as in `prernn.streaming.resets`.

A policy is a string: ``never``; ``cut``, at a boundary between shots; ``idle:SECONDS``, after this long without change
or frames; ``every:N``, so that the state is always N/2 to N frames old, for which the network runs twice.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

GRID = 16
"""Cells per side of the thumbnails that are compared."""

CUT_CHANGE, CUT_RATIO, CUT_MEMORY, CUT_LEAST = 16.0, 2.5, 8, 3
"""Criteria for a cut: least change, of 255; least ratio to the largest of the previous changes; how many previous
changes are remembered, and how many are needed."""

STILL = 6.0
"""Largest change of a cell, of 255, for which a picture counts as still."""


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The means of 16 x 16 cells of a uint8 picture ``(H, W, 3)``, float32 ``(16, 16, 3)`` from 0 to 255.

    Raises:
        NotImplementedError: anything but such a picture.
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
    """Finds boundaries between shots: a large change of the picture that exceeds the previous motion."""

    timed = False

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Returns to the condition before the first picture."""
        self._before: np.ndarray | None = None  # (16, 16, 3)
        self._changes: deque[float] = deque(maxlen=CUT_MEMORY)

    def due(self, picture: np.ndarray, time: float) -> bool:
        """Whether to reset the state at this picture, given as its thumbnail."""
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
        """The policy's memory as arrays; empty before the first picture."""
        if self._before is None:
            return {}
        changes = [*self._changes, *[math.nan] * (CUT_MEMORY - len(self._changes))]
        return {"picture": self._before, "changes": np.array(changes)}

    def recall(self, memory: dict[str, np.ndarray]) -> None:
        """Continues from the result of `memory`."""
        self.forget()
        if memory:
            self._before = memory["picture"].astype(np.float32)
            self._changes.extend(change for change in memory["changes"].tolist() if not math.isnan(change))


class Idle:
    """Finds idleness: for some time no cell of the thumbnail has changed by more than `STILL`, or no frame has come.

    The state is reset once when this time has passed, and again at the change that ends the idleness.

    Args:
        seconds: the time.
    """

    timed = True

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.forget()

    def forget(self) -> None:
        """Returns to the condition before the first picture."""
        self._shown: np.ndarray | None = None  # (16, 16, 3), when it last changed
        self._still, self._idle, self._latest = 0.0, False, 0.0

    def due(self, picture: np.ndarray, time: float) -> bool:
        """Whether to reset the state at this picture, given as its thumbnail, at this time in seconds."""
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
        """The policy's memory as arrays; empty before the first picture."""
        if self._shown is None:
            return {}
        return {"picture": self._shown, "times": np.array([self._still, float(self._idle), self._latest])}

    def recall(self, memory: dict[str, np.ndarray]) -> None:
        """Continues from the result of `memory`."""
        self.forget()
        if memory:
            self._shown = memory["picture"].astype(np.float32)
            self._still, idle, self._latest = memory["times"].tolist()
            self._idle = bool(idle)


SHAPES = {"picture": (GRID, GRID, 3), "changes": (CUT_MEMORY,), "times": (3,)}
"""Shapes of the arrays that policies remember, by name."""


def reset_policy(text: str) -> Cut | Idle | int | None:
    """Parses a policy: an object that looks at the pictures of one stream, N for ``every:N``, or None for ``never``.

    Raises:
        ValueError: any other text.
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
        pass  # an invalid number is reported below
    raise ValueError(
        f"reset: expected never, cut, idle:SECONDS with more than 0, or every:N with an even number of frames, "
        f"got {text!r}"
    )


class Eyes:
    """The policies of several parallel streams, each with its own memory.

    Args:
        text: the policy, ``cut`` or ``idle:SECONDS``.
        streams: number of streams.
    """

    def __init__(self, text: str, streams: int):
        self._text = text
        self._policies: list[Any] = [reset_policy(text) for _ in range(streams)]

    def forget(self) -> None:
        """Returns to the condition before the first picture."""
        for policy in self._policies:
            policy.forget()

    def due(self, pictures: Sequence[np.ndarray], time: float | Sequence[float] | None) -> list[int]:
        """Indices of the streams to reset at these pictures, one for each stream.

        Raises:
            ValueError: no time although the policy needs one, or several times that are not one for each stream.
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
        """Returns a memory unchanged; ValueError if it does not belong to these policies."""
        wanted = {name for name in SHAPES if name != ("changes" if self._policies[0].timed else "times")}
        if memory and set(memory) != wanted:
            raise ValueError(f"expected the memory of reset {self._text!r}, {sorted(wanted)}, got {sorted(memory)}")
        for name, value in memory.items():
            if value.shape != (shape := (len(self._policies), *SHAPES[name])):
                raise ValueError(f"expected reset_{name} of shape {shape}, got {value.shape}")
        return memory

    def recall(self, memory: dict[str, np.ndarray]) -> None:
        """Continues from the result of `memory`."""
        for row, policy in enumerate(self._policies):
            policy.recall({name: value[row] for name, value in memory.items()})
