"""When the state of a stream starts anew: never, at a cut, after idleness, or every so many frames.

A state that is older than those of training may go wrong. A policy is a text, in `prernn.Stream`, in a recipe and on
the command line:

- ``never`` keeps the state for ever;
- ``cut`` starts anew where the picture changes at once, a boundary of shots (`Cut`);
- ``idle:SECONDS`` where nothing has changed, or no frame has come, for so long (`Idle`);
- ``every:N`` answers from a state that is N/2 to N frames old: a second one starts N/2 frames after each, and takes its
  place. The network runs twice.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

GRID = 16
"""Cells a side of the thumbnails that are compared."""

CUT_CHANGE = 16.0
"""Mean change from one picture to the next, of 255, that a cut has at least."""

CUT_RATIO = 2.5
"""How many times as large as the largest of the changes before it the change of a cut is."""

CUT_MEMORY = 8
"""Changes that a cut is compared with."""

CUT_LEAST = 3
"""Changes that have to be known before there can be a cut: whatever begins moving fast is no cut."""

STILL = 6.0
"""Change of a cell, of 255, up to which a picture is still: noise of a camera and of compression."""


def thumbnail(picture: np.ndarray | Tensor) -> Tensor:
    """The means of 16 x 16 cells of a uint8 picture ``(H, W, 3)``, float32 ``(16, 16, 3)`` from 0 to 255.

    Raises:
        NotImplementedError: something else than a picture, such as optical flow or what a transform has made.
    """
    import cv2

    pixels = picture.cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise NotImplementedError(
            f"a reset by what the picture shows expects uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}: "
            "hand the picture to stream.look(picture, time) before stream(frame)"
        )
    pixels = np.ascontiguousarray(pixels[:: max(1, len(pixels) // (8 * GRID))])  # 8 rows of a cell tell enough of it
    return torch.from_numpy(cv2.resize(pixels, (GRID, GRID), interpolation=cv2.INTER_AREA)).float()


class Cut:
    """Finds boundaries of shots: a change of the picture that is large, and larger than the motion before it.

    The change is the mean absolute difference of two pictures' thumbnails. A cut has at least `CUT_CHANGE` of it, and
    `CUT_RATIO` times the largest of the up to `CUT_MEMORY` changes since the last cut, of which there have to be
    `CUT_LEAST`. So fast motion that goes on is none, and neither are two cuts within four frames; a cut in the midst
    of such motion is missed. What comes after a lost connection is a cut, whatever it shows.
    """

    timed = False

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As before the first picture."""
        self._before: Tensor | None = None  # (16, 16, 3)
        self._changes: deque[float] = deque(maxlen=CUT_MEMORY)
        self._interrupted = False

    def interrupted(self) -> None:
        """Says that pictures are missing before the next."""
        self._interrupted = True

    def due(self, picture: Tensor, time: float) -> bool:
        """Whether the state is to start anew with this picture, given as its thumbnail."""
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
        """What it remembers, as tensors; empty before a picture."""
        if self._before is None:
            return {}
        changes = [*self._changes, *[math.nan] * (CUT_MEMORY - len(self._changes))]
        return {"picture": self._before, "changes": torch.tensor(changes, dtype=torch.float64)}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Goes on with what `memory` gave."""
        self.forget()
        if memory:
            self._before = memory["picture"].clone()
            self._changes.extend(change for change in memory["changes"].tolist() if not math.isnan(change))


class Idle:
    """Finds idleness: no cell of the picture's thumbnail has changed by more than `STILL` for so many seconds.

    The state starts anew when so long has passed, once, and again with the change that ends the idleness, so that what
    happens then is seen by a state without a long past. It also does with the first frame after a gap of so long, that
    of a lost connection among them. Times that jump back count for nothing.

    Args:
        seconds: how long.
    """

    timed = True

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.forget()

    def forget(self) -> None:
        """As before the first picture."""
        self._shown: Tensor | None = None  # (16, 16, 3), when it last changed
        self._still, self._idle, self._latest = 0.0, False, 0.0  # seconds without change; the time of the latest frame

    def interrupted(self) -> None:
        """Says that pictures are missing before the next: the times tell for how long."""

    def due(self, picture: Tensor, time: float) -> bool:
        """Whether the state is to start anew with this picture, given as its thumbnail, at this time in seconds."""
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
        """What it remembers, as tensors; empty before a picture."""
        if self._shown is None:
            return {}
        numbers = [self._still, float(self._idle), self._latest]
        return {"picture": self._shown, "times": torch.tensor(numbers, dtype=torch.float64)}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Goes on with what `memory` gave."""
        self.forget()
        if memory:
            self._shown = memory["picture"].clone()
            self._still, idle, self._latest = memory["times"].tolist()
            self._idle = bool(idle)


SHAPES = {"picture": (GRID, GRID, 3), "changes": (CUT_MEMORY,), "times": (3,)}
"""Of what policies remember, by name."""


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
"""What reads the argument of a policy that has one."""


def reset_policy(text: str) -> Cut | Idle | int | None:
    """A policy's text as what looks at the pictures of one stream, N for ``every:N``, or None for ``never``.

    Raises:
        ValueError: another text.
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

    def interrupted(self) -> None:
        """Says that pictures are missing before the next."""
        for policy in self._policies:
            policy.interrupted()

    def seen(self, pictures: Sequence[np.ndarray | Tensor], time: float | Sequence[float] | None) -> list[Seen]:
        """What `due` looks at, of one picture of each stream; the policies do not know of it yet.

        Raises:
            ValueError: no time, where the policy needs one; times that are not one of each stream.
            NotImplementedError: something else than pictures.
        """
        if time is None and self._policies[0].timed:
            raise ValueError(f"reset {self._text!r}: expected the time of each frame in seconds, got none")
        given = np.asarray(0.0 if time is None else time, float)
        if given.ndim and given.shape != (len(pictures),):
            raise ValueError(f"expected one time, or one of each of {len(pictures)} streams, got {time}")
        times: list[float] = np.broadcast_to(given, len(pictures)).tolist()
        return list(zip([thumbnail(picture) for picture in pictures], times, strict=True))

    def due(self, seen: Sequence[Seen]) -> list[int]:
        """Numbers of the streams that start anew with these pictures, of which `seen` has made this."""
        rows = zip(self._policies, seen, strict=True)
        return [row for row, (policy, (picture, time)) in enumerate(rows) if policy.due(picture, time)]

    def memory(self) -> dict[str, Tensor]:
        """What the policies remember, batch first."""
        rows = [policy.memory() for policy in self._policies]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def checked(self, memory: dict[str, Tensor]) -> dict[str, Tensor]:
        """The memory of such policies; ValueError where it is that of others."""
        wanted = {name for name in SHAPES if name != ("changes" if self._policies[0].timed else "times")}
        if memory and set(memory) != wanted:
            raise ValueError(f"expected the memory of reset {self._text!r}, {sorted(wanted)}, got {sorted(memory)}")
        for name, value in memory.items():
            if value.shape != (shape := (len(self._policies), *SHAPES[name])):
                raise ValueError(f"expected reset_{name} of shape {shape}, got {tuple(value.shape)}")
        return memory

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Goes on with what `memory` gave."""
        for row, policy in enumerate(self._policies):
            policy.recall({name: value[row] for name, value in memory.items()})
