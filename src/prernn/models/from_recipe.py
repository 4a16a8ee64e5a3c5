"""Rebuilds a network from its recipe, the first part of loading a checkpoint."""

import inspect
from collections.abc import Callable

from torch import nn

from prernn.conversion.calibration import STEP, with_calibration
from prernn.conversion.convert import convert, framewise, traditional
from prernn.conversion.inflate import inflate
from prernn.conversion.rcn import convert_rcn
from prernn.conversion.recipe import Recipe, Step
from prernn.conversion.sequence_network import SequenceNetwork
from prernn.models.backbones import backbone
from prernn.models.networks.deep_speech import deep_speech
from prernn.sparsity.normalize import normalized

STEPS: dict[str, Callable[..., nn.Module]] = {
    "convert": convert,
    "traditional": traditional,
    "framewise": framewise,
    "rcn": convert_rcn,
    "normalized": normalized,
    "deep_speech": deep_speech,
    STEP: with_calibration,
}
"""The function for each step of a recipe."""


def rebuild(recipe: Recipe, cnn: nn.Module | None = None) -> SequenceNetwork:
    """The network that a recipe describes, with random weights.

    Args:
        recipe: the recipe from a checkpoint.
        cnn: the CNN that was made recurrent, for a recipe that names no backbone.

    Raises:
        ValueError: a recipe without steps, or with an unknown step; no backbone in the recipe and no ``cnn``.
    """
    if not recipe.steps:
        raise ValueError(f"expected a recipe with steps among {', '.join(STEPS)}, got one without steps")
    for step in recipe.steps:
        _check(step)
    if cnn is None:
        if not recipe.backbone:
            raise ValueError("the network was made of a CNN of your own: expected load(path, cnn=...), got no cnn")
        cnn = backbone(recipe.backbone, channels=recipe.channels, **recipe.backbone_options)
    network: nn.Module = cnn if recipe.inflate is None else inflate(cnn, **recipe.inflate)
    for step in recipe.steps:
        network = STEPS[step.name](network, **step.arguments)
    assert isinstance(network, SequenceNetwork)
    network.recipe = recipe
    return network


def _check(step: Step) -> None:
    if step.name not in STEPS:
        raise ValueError(f"expected a recipe with steps among {', '.join(STEPS)}, got {step.name!r}")
    known = inspect.signature(STEPS[step.name]).parameters
    if unknown := [name for name in step.arguments if name not in known]:
        raise ValueError(f"recipe step {step.name}: expected {', '.join(known)}, got {', '.join(unknown)}")
