"""When the state of a stream is reset: never, at a cut, after idleness, or every so many frames.

A state older than those in training may go wrong. A policy is a text, in `prernn.Stream`, in a recipe and on the
command line:

- ``never`` keeps the state forever;
- ``cut`` resets it where the whole picture changes at once, at a shot boundary (`Cut`);
- ``idle:SECONDS`` resets it after nothing has changed, or no frame has come, for this long (`Idle`);
- ``every:N`` answers from a state that is N/2 to N frames old: every N/2 frames a second state starts from zero, and
  replaces the first N/2 frames later. The network runs twice.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

GRID = 16
"""Cells per side of the thumbnails that are compared."""

CUT_CHANGE = 16.0
"""Least mean change from one picture to the next, out of 255, for a cut."""

CUT_RATIO = 2.5
"""How many times larger the change of a cut is than the largest of the changes before it."""

CUT_MEMORY = 8
"""Number of previous changes that a cut is compared with."""

CUT_LEAST = 3
"""Number of changes that must be known before there can be a cut, so that the onset of fast motion is not one."""

STILL = 6.0
"""Change of a cell, out of 255, up to which a picture counts as still: camera and compression noise."""


def thumbnail(picture: np.ndarray | Tensor) -> Tensor:
    """The means over 16 x 16 cells of a uint8 picture ``(H, W, 3)``, float32 ``(16, 16, 3)`` from 0 to 255.

    Raises:
        NotImplementedError: not a picture, for example optical flow or the result of a transform.
    """
    import cv2

    pixels = picture.cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise NotImplementedError(
            f"a reset by what the picture shows expects uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}: "
            "hand the picture to stream.look(picture, time) before stream(frame)"
        )
    pixels = np.ascontiguousarray(pixels[:: max(1, len(pixels) // (8 * GRID))])  # 8 rows per cell are enough
    return torch.from_numpy(cv2.resize(pixels, (GRID, GRID), interpolation=cv2.INTER_AREA)).float()


class Cut:
    """Finds shot boundaries: a change of the picture that is large, and larger than the motion before it.

    The change is the mean absolute difference of two pictures' thumbnails. For a cut it must be at least `CUT_CHANGE`,
    and `CUT_RATIO` times the largest of the up to `CUT_MEMORY` changes since the last cut, of which there must be at
    least `CUT_LEAST`. So continuing fast motion is no cut, nor is a second cut within four frames; a cut in the middle
    of fast motion is missed. The first picture after a lost connection is always a cut.
    """

    timed = False

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Returns to the state before the first picture."""
        self._before: Tensor | None = None  # (16, 16, 3)
        self._changes: deque[float] = deque(maxlen=CUT_MEMORY)
        self._interrupted = False

    def interrupted(self) -> None:
        """Tells it that pictures are missing before the next one."""
        self._interrupted = True

    def due(self, picture: Tensor, time: float) -> bool:
        """Whether to reset the state before this picture, given as its thumbnail."""
        before, self._before = self._before, picture
        interrupted, self._interrupted = self._interrupted, False
        if before is None:
            return False
        change = float((picture - before).abs().mean())
        known = self._changes
        cut = len(known) >= CUT_LEAST and change > CUT_CHANGE and change > CUT_RATIO * max(known)
        if cut or interrupted:
            known.clear()
        else:
            known.append(change)
        return cut or interrupted

    def memory(self) -> dict[str, Tensor]:
        """What it remembers, as tensors; empty before the first picture."""
        if self._before is None:
            return {}
        changes = [*self._changes, *[math.nan] * (CUT_MEMORY - len(self._changes))]
        return {"picture": self._before, "changes": torch.tensor(changes, dtype=torch.float64)}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Continues from what `memory` returned."""
        self.forget()
        if memory:
            self._before = memory["picture"].clone()
            self._changes.extend(change for change in memory["changes"].tolist() if not math.isnan(change))


class Idle:
    """Finds idleness: no cell of the picture's thumbnail has changed by more than `STILL` for a number of seconds.

    The state is reset once when this time has passed, and again with the change that ends the idleness, so that what
    happens then is seen by a state without a long past. It is also reset with the first frame after a gap this long,
    such as that of a lost connection. Jumps back in time have no effect.

    Args:
        seconds: the number of seconds.
    """

    timed = True

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.forget()

    def forget(self) -> None:
        """Returns to the state before the first picture."""
        self._shown: Tensor | None = None  # (16, 16, 3), as of its last change
        self._still, self._idle, self._latest = 0.0, False, 0.0  # seconds without change; the time of the latest frame

    def interrupted(self) -> None:
        """Tells it that pictures are missing before the next one; the times show for how long."""

    def due(self, picture: Tensor, time: float) -> bool:
        """Whether to reset the state before this picture, given as its thumbnail, at this time in seconds."""
        passed, self._latest = max(0.0, time - self._latest), time
        if self._shown is None or passed >= self.seconds:
            first, self._shown = self._shown is None, picture
            self._still, self._idle = 0.0, False
            return not first
        if float((picture - self._shown).abs().max()) > STILL:
            idle, self._shown = self._idle, picture
            self._still, self._idle = 0.0, False
            return idle
        self._still += passed
        if self._idle or self._still < self.seconds:
            return False
        self._idle = True
        return True

    def memory(self) -> dict[str, Tensor]:
        """What it remembers, as tensors; empty before the first picture."""
        if self._shown is None:
            return {}
        numbers = [self._still, float(self._idle), self._latest]
        return {"picture": self._shown, "times": torch.tensor(numbers, dtype=torch.float64)}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Continues from what `memory` returned."""
        self.forget()
        if memory:
            self._shown = memory["picture"].clone()
            self._still, idle, self._latest = memory["times"].tolist()
            self._idle = bool(idle)


SHAPES = {"picture": (GRID, GRID, 3), "changes": (CUT_MEMORY,), "times": (3,)}
"""The shapes of what policies remember, by name."""


def _idle(argument: str) -> Idle:
    seconds = float(argument)
    if not 0 < seconds < math.inf:
        raise ValueError
    return Idle(seconds)


def _every(argument: str) -> int:
    frames = int(argument)
    if frames < 2 or frames % 2:
        raise ValueError
    return frames


POLICIES: dict[str, Callable[[str], Any]] = {"idle": _idle, "every": _every}
"""The functions that read the argument of a policy that has one."""


def reset_policy(text: str) -> Cut | Idle | int | None:
    """A policy's text as an object that looks at the pictures of one stream, N for ``every:N``, or None for ``never``.

    Raises:
        ValueError: the text is no policy.
    """
    if text in ("never", "cut"):
        return Cut() if text == "cut" else None
    name, _, argument = str(text).partition(":")
    try:
        return POLICIES[name](argument)
    except (KeyError, ValueError):
        raise ValueError(
            f"reset: expected never, cut, idle:SECONDS with more than 0, or every:N with an even number of frames, "
            f"got {text!r}"
        ) from None


Seen = tuple[Tensor, float]
"""A picture's thumbnail ``(16, 16, 3)`` and its time in seconds."""


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
        """Returns to the state before the first picture."""
        for policy in self._policies:
            policy.forget()

    def interrupted(self) -> None:
        """Tells the policies that pictures are missing before the next ones."""
        for policy in self._policies:
            policy.interrupted()

    def seen(self, pictures: Sequence[np.ndarray | Tensor], time: float | Sequence[float] | None) -> list[Seen]:
        """What `due` takes, made from one picture of each stream; the policies have not used it yet.

        Raises:
            ValueError: no time, if the policy needs one; or times that are not one per stream.
            NotImplementedError: something other than pictures.
        """
        if time is None and self._policies[0].timed:
            raise ValueError(f"reset {self._text!r}: expected the time of each frame in seconds, got none")
        given = np.asarray(0.0 if time is None else time, float)
        if given.ndim and given.shape != (len(pictures),):
            raise ValueError(f"expected one time, or one of each of {len(pictures)} streams, got {time}")
        times: list[float] = np.broadcast_to(given, len(pictures)).tolist()
        return list(zip([thumbnail(picture) for picture in pictures], times, strict=True))

    def due(self, seen: Sequence[Seen]) -> list[int]:
        """Numbers of the streams that are reset before these pictures, given as `seen` made them."""
        rows = zip(self._policies, seen, strict=True)
        return [row for row, (policy, (picture, time)) in enumerate(rows) if policy.due(picture, time)]

    def memory(self) -> dict[str, Tensor]:
        """What the policies remember, batch first."""
        rows = [policy.memory() for policy in self._policies]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def checked(self, memory: dict[str, Tensor]) -> dict[str, Tensor]:
        """The memory of such policies; ValueError if it is that of others."""
        wanted = {name for name in SHAPES if name != ("changes" if self._policies[0].timed else "times")}
        if memory and set(memory) != wanted:
            raise ValueError(f"expected the memory of reset {self._text!r}, {sorted(wanted)}, got {sorted(memory)}")
        for name, value in memory.items():
            if value.shape != (shape := (len(self._policies), *SHAPES[name])):
                raise ValueError(f"expected reset_{name} of shape {shape}, got {tuple(value.shape)}")
        return memory

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Continues from what `memory` returned."""
        for row, policy in enumerate(self._policies):
            policy.recall({name: value[row] for name, value in memory.items()})
