"""The first phase of a training in a configuration."""

from dataclasses import dataclass

from prernn.layers.arguments import real, whole

USUAL_EPOCHS = 5
"""Default number of epochs of a first phase."""


@dataclass(frozen=True)
class FirstPhase:
    """The part behind the frozen trunk learns before the whole network does: see `prernn.training.frozen_trunk`.

    Attributes:
        epochs: number of epochs of the first phase, on features that the trunk computes once; 0 is none, as in the
            papers. None is 5 if a CNN with pre-trained weights is fine-tuned and the features of all training videos
            fit into 2 GiB.
        views: number of views of each video, with different crops, for which features are computed.
        lr: learning rate of everything behind the trunk; None is that of the new part, ``learning.lr``.
        then: share of ``learning.lr`` at which the new part learns once the whole network trains.

    Raises:
        ValueError: numbers out of range.
    """

    epochs: int | None = None
    views: int = 2
    lr: float | None = None
    then: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs is not None:
            whole("learning first epochs", self.epochs, 0)
        whole("learning first views", self.views)
        if self.lr is not None:
            real("learning first lr", self.lr, 0, above=True)
        real("learning first then", self.then, 0, 1, above=True)
