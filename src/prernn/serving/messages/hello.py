"""A client's first message: what it sends and what it wants to get."""

import base64
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load, save
from torch import Tensor

from prernn.serving.messages.pictures import Raw, check_size


class Hello(BaseModel):
    """A client's first message, as JSON; all of it may be left out: ``{}``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    frames: Literal["jpeg", "rgb"] = Field("jpeg", description="what binary messages hold: a JPEG, or raw RGB")
    width: Annotated[int, Field(ge=1)] | None = Field(None, description="width of raw frames, in pixels")
    height: Annotated[int, Field(ge=1)] | None = Field(None, description="height of raw frames, in pixels")
    times: bool = Field(
        False,
        description="whether each frame begins with its time in seconds, a little-endian float64; otherwise its time "
        "is that of its arrival",
    )
    fps: Annotated[float, Field(gt=0, le=1000)] | Literal["source"] | None = Field(
        None,
        description="frames a second that the network sees, or source for all; by default the rate it was trained at",
    )
    drop: Literal["oldest", "none"] = Field(
        "oldest",
        description="what happens when frames come faster than answers: the oldest waiting ones are dropped and "
        "counted, or no more are read until there is room",
    )
    reset: str | None = Field(None, description="never, cut, idle:SECONDS or every:N; by default the run's")
    top: Annotated[int, Field(ge=0, le=1000)] = Field(0, description="number of most probable labels in answers")
    activity: Annotated[int, Field(ge=0, le=256)] = Field(
        0, description="number of groups of each recurrent layer's units whose mean activity is sent with answers"
    )
    state: bool = Field(
        False, description="whether the next message, a binary one, is a state from the server to continue from"
    )
    token: str | None = Field(None, description="if the server requires one and it is not in the header")

    def raw(self, most_pixels: int) -> Raw | None:
        """The size of raw frames, None for JPEG frames. Raises ValueError if it is missing or too large."""
        if self.frames == "jpeg":
            if self.width is not None or self.height is not None:
                raise ValueError("expected no width and height of jpeg frames, which have their own")
            return None
        if self.width is None or self.height is None:
            raise ValueError("expected width and height of rgb frames")
        check_size(self.width, self.height, most_pixels)
        return Raw(self.height, self.width)


LONGEST = 4096
"""Maximum number of characters of a hello. Parsing JSON blocks all clients, so the server parses only short texts."""


def hello_of(text: str) -> Hello:
    """The first message as a `Hello`. Raises ValueError, in one line, for anything else."""
    if len(text) > LONGEST:
        raise ValueError(f"expected a hello of at most {LONGEST} characters, got {len(text)}")
    try:
        return Hello.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "hello"
        where = where if where.isprintable() else repr(where)  # a key may contain anything
        raise ValueError(f"{where}: {first['msg']}") from error


def packed_state(states: list[dict[str, Tensor]]) -> str:
    """The states of a client's streams, one per network, as base64 of safetensors."""
    tensors = {f"{number}.{name}": value.cpu() for number, state in enumerate(states) for name, value in state.items()}
    return base64.b64encode(save(tensors)).decode()


def unpacked_state(data: bytes, networks: int) -> list[dict[str, Tensor]]:
    """The states in such safetensors. Whether they fit the networks is checked by `Stream.load_state_dict`.

    Raises:
        ValueError: the bytes are something else.
    """
    try:
        tensors = load(data)
        names = [name.partition(".") for name in tensors]
        states: list[dict[str, Tensor]] = [{} for _ in range(networks)]
        for (number, _, name), value in zip(names, tensors.values(), strict=True):
            states[[str(n) for n in range(networks)].index(number)][name] = value
    except Exception as error:  # safetensors' own, and KeyError for types that torch lacks
        raise ValueError(f"state: expected one that this server gave, got other bytes: {error}") from error
    return states
