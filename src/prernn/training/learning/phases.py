"""What a config says of the first phase of a training."""

from dataclasses import dataclass

from prernn.layers.arguments import real, whole

USUAL_EPOCHS = 5
"""Of a first phase that nobody has said anything of."""


@dataclass(frozen=True)
class FirstPhase:
    """What is behind the frozen trunk learns before the whole network does: see `prernn.training.frozen_trunk`.

    Attributes:
        epochs: of the first phase, over features that the trunk gives once; 0 is none, and the papers' way. None is 5
            where a CNN with pre-trained weights is fine-tuned and the features of all training videos fit into 2 GiB.
        views: of each video, with other crops, that features are computed of.
        lr: learning rate of all that is behind the trunk; None is that of the new part, ``learning.lr``.
        then: share of ``learning.lr`` that the new part learns at once the whole network trains.

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
