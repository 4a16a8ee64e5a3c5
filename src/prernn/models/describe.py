"""Describes recipes in words."""

from typing import Any

from prernn.conversion.recipe import Recipe, Step
from prernn.layers.names import short

PLAIN = {"framewise": "frame-wise", "normalized": "normalized"}
"""Steps without arguments worth mentioning."""


UNSAID = ("calibrated",)
"""Steps that are not mentioned, because most networks have them."""


def describe(recipe: Recipe) -> str:
    """A network's steps in words: "PreLSTM-SIH at fc7, band:1%"."""
    steps = " + ".join(_describe_step(step) for step in recipe.steps if step.name not in UNSAID)
    return f"inflated to 3-D, {steps}" if recipe.inflate is not None else steps


def _describe_step(recipe_step: Step) -> str:
    name, step = recipe_step.name, recipe_step.arguments
    if name in PLAIN:
        return PLAIN[name]
    if name == "deep_speech":
        hidden = "" if step["hidden"] == "full" else f", {step['hidden']}"
        return f"Deep Speech, {step['num_layers']} x {step['hidden_size']} {short(step['cell']).upper()}{hidden}"
    if name == "rcn":
        return _describe_rcn(step)
    cell, hidden = short(step["cell"]).upper(), step.get("hidden", "full")
    structure = "" if hidden == "full" else f", {hidden}"
    if name == "traditional":
        layers = "1 layer" if step["num_layers"] == 1 else f"{step['num_layers']} layers"
        sizes = step.get("hidden_size") or []
        size = f" of {' + '.join(map(str, sizes if isinstance(sizes, list) else [sizes]))}" if sizes else ""
        return f"traditional {cell}, {layers}{size}{structure}"
    form = "-SIH" if step["input"] == "single" and cell != "VRNN" else ""
    drawn = "" if step.get("pretrained", True) else ", drawn anew"
    return f"Pre{cell}{form} at {', '.join(step['layer'])}{structure}{drawn}"


def _describe_rcn(step: dict[str, Any]) -> str:
    hidden, mix = step.get("hidden", "full"), step.get("mix", "mean")
    parts = [f"RCN of {len(step['layers'])} layers"]
    parts += [hidden] if hidden != "full" else []
    parts += [mix] if mix != "mean" else []
    parts += [f"{step['init']} start"] if step.get("init", "identity") != "identity" else []
    return ", ".join(parts + ([] if step.get("pretrained", True) else ["drawn anew"]))
