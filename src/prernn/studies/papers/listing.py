"""Cells of the papers' tables as text for a terminal: what each is, and what the paper reports for it."""

from collections.abc import Sequence
from typing import Any

from prernn.reports.tables import text_table
from prernn.studies.papers.cells import Cell

HEADINGS = ("name", "network", "backbone", "layer", "cell", "W_hh")


def listing(cells: Sequence[Cell]) -> str:
    """The cells of one table, under its title."""
    return f"{cells[0].table}: {cells[0].title}\n{text_table(rows(cells), left=len(HEADINGS))}"


def rows(cells: Sequence[Cell]) -> list[list[str]]:
    """Cells as rows of a table, after a row of headings; the last columns are the published figures."""
    metrics = list(dict.fromkeys(metric for cell in cells for metric in cell.published))
    found = [[*HEADINGS, *metrics]]
    for cell in cells:
        recipe = {**cell.training.recipe, **cell.recipe}
        layer = recipe.get("layer", "all conv" if recipe["method"] == "rcn" else "")
        words = [
            cell.name,
            network(recipe) + (", Kalman filter" if "kalman" in cell.training.task["init_args"] else ""),
            recipe["backbone"],
            layer if isinstance(layer, str) else " + ".join(layer),
            recipe.get("cell", ""),
            "" if recipe["method"] == "framewise" else recipe.get("hidden", "full"),
        ]
        found.append([*words, *(cell.published.get(metric, "") for metric in metrics)])
    return found


def network(recipe: dict[str, Any]) -> str:
    """A recipe's network in the papers' words, such as "PreRNN-SIH" or "traditional, 2 layers of 5497"."""
    method = recipe["method"]
    if method == "traditional":
        layers = recipe["num_layers"]
        name = f"traditional, {layers} layer{'s' if layers > 1 else ''} of {recipe['hidden_size']}"
        name += ", on the outputs" if recipe.get("behind") == "outputs" else ""
        return name + (", ReLU" if recipe.get("activation") == "relu" else "")
    if method == "rcn":
        return f"RCN, {'ImageNet' if recipe['pretrained'] else 'random'}, {recipe['rcn']['init']}"
    if method == "framewise":
        if "frames" in recipe:
            return "3-D network, random"
        if "inflate" in recipe:
            return "inflated to 3-D" if recipe["pretrained"] else "inflated to 3-D, random"
        return "frame by frame"
    name = "PreRNN-SIH" if recipe["input"] == "single" else "PreRNN"
    if recipe.get("layers_on_top"):
        return f"{name}, a random layer on top" + (", ReLU" if recipe.get("activation") == "relu" else "")
    return name if recipe.get("pretrained_layer", True) else f"{name}, layer reinitialized"
