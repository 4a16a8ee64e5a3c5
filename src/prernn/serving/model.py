"""What is served: networks whose steps all clients share, and the task, which defines what follows a stream."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from prernn.engines.opening import opened
from prernn.engines.together import SharedNetwork, Together
from prernn.streaming.pace import Pace, Rate, clock_for
from prernn.streaming.resets import reset_policy
from prernn.streaming.stream import Stream
from prernn.streaming.watch import Watcher
from prernn.tasks import followed


class Model:
    """Networks of one run, or of several whose answers a task combines, for many concurrent streams.

    Args:
        sources: networks, run folders, checkpoints, or steps that `prernn.export` wrote.
        engine: as in `prernn.Stream`, like ``precision`` and ``threads``.
        precision: of the arithmetic.
        threads: number of threads of a step.
        options: options of the task's watcher.
        most: largest number of streams in a step.
        observe: called with the number of streams and the seconds of each step.

    Attributes:
        task: the task that it was trained for.
        recipe: the recipe of its first network.
        labels: the names of its outputs, or None.

    Raises:
        ValueError, NotImplementedError, ImportError: as in `prernn.Stream`; a network whose input is not pictures.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        engine: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        most: int = 64,
        observe: Callable[[int, float], None] | None = None,
    ):
        nets = [opened(source, engine, precision, threads) for source in sources]
        self.recipe, self.options = nets[0].recipe, dict(options or {})
        self.engine, self.precision, self.labels = nets[0].engine, nets[0].precision, self.recipe.labels
        self.task = followed(self.recipe)
        if unknown := sorted(set(self.options) - set(self.task.watcher_options)):
            known = ", ".join(self.task.watcher_options) or "none"
            raise ValueError(f"task {self.task.name}: expected options among {known}, got {', '.join(unknown)}")
        if self.task.input != "pictures" or any(len(net.frame_shape) < 3 for net in nets):
            raise NotImplementedError(f"expected a network of pictures, got one of steps {nets[0].frame_shape}")
        of_steps = threads or torch.get_num_threads()  # given explicitly, because other threads have fewer
        self._shared = [Together(net, of_steps, most, observe) for net in nets]
        try:
            self.watcher()  # refuses at once what would not work for any client
        except BaseException:
            self.close()
            raise

    def watcher(self, reset: str | None = None) -> Watcher:
        """A watcher for one more stream, with its own state.

        Args:
            reset: the stream's policy instead of the run's.

        Raises:
            ValueError: the text is no policy.
        """
        if reset is not None:
            reset_policy(reset)
        nets = []
        for together in self._shared:
            own = together.net.recipe
            nets.append(SharedNetwork(together, own if reset is None else replace(own, reset=reset)))
        return self.task.watcher(*nets, **self.options)

    def clock(self, asked: Rate = None) -> Pace:
        """The clock of a stream: at the requested rate, else at that of training; else without one."""
        nets = [together.net for together in self._shared]
        known = any(net.recipe.rate is not None for net in nets)
        return clock_for(nets, asked if asked is not None or known else "source")

    def close(self) -> None:
        """Ends the threads that compute steps."""
        for together in self._shared:
            together.close()


def streams_of(watcher: Watcher) -> list[Stream]:
    """The streams of a watcher. Raises NotImplementedError if it has neither ``stream`` nor ``streams``."""
    found = getattr(watcher, "streams", None) or [getattr(watcher, "stream", None)]
    if not all(isinstance(stream, Stream) for stream in found):
        raise NotImplementedError("expected a task whose watcher has streams, which can be saved")
    return list(found)
