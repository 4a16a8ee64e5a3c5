"""The recipe that checkpoints carry: to and from JSON, and what it refuses."""

import json
from dataclasses import replace

import pytest

import prernn
from prernn.conversion.recipe import VERSION, KeptTask, Recipe, Step
from small_cnns import FcNet, prepare

WHOLE = Recipe(
    steps=(Step("convert", {"layer": ["fc7"], "cell": "gru"}), Step("traditional", {"num_layers": 2})),
    backbone="vgg16",
    backbone_options={"num_classes": 3},
    channels=20,
    inflate={"frames": 8},
    labels=["a", "b"],
    transform={"size": 32},
    task=KeptTask("action", {"stack": 5}),
    rate=12.5,
    reset="every:64",
)


@pytest.mark.parametrize("recipe", [Recipe(), WHOLE], ids=["empty", "whole"])
def test_it_comes_back_from_json(recipe):
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_its_json_is_that_of_before_and_a_version():
    assert WHOLE.to_json() == {
        "steps": [
            {"step": "convert", "layer": ["fc7"], "cell": "gru"},
            {"step": "traditional", "num_layers": 2},
        ],
        "backbone": "vgg16",
        "backbone_options": {"num_classes": 3},
        "channels": 20,
        "inflate": {"frames": 8},
        "labels": ["a", "b"],
        "transform": {"size": 32},
        "task": {"name": "action", "stack": 5},
        "rate": 12.5,
        "reset": "every:64",
        "version": VERSION,
    }


def test_what_has_no_rate_is_written_as_before_but_for_the_version():
    assert Recipe(backbone="vgg16").to_json() == {
        "steps": [],
        "backbone": "vgg16",
        "backbone_options": {},
        "version": 2,
    }


@pytest.mark.parametrize("version", [{}, {"version": 1}])
def test_older_recipes_load(version):
    recipe = Recipe.from_json({"steps": [], "backbone": "vgg16", **version})
    assert (recipe.rate, recipe.reset, recipe.version) == (None, None, VERSION)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([], "expected a recipe, a dict"),
        ({"steps": "convert"}, "expected a recipe, a dict"),
        ({"steps": [], "color": 1}, "got color"),
        ({"steps": [{"layer": "fc7"}]}, "recipe's step"),
        ({"steps": [], "task": {"stack": 5}}, "recipe's name"),
        ({"steps": [], "version": VERSION + 1}, "update prernn"),
        ({"steps": [], "version": "one"}, "update prernn"),
        ({"steps": [], "rate": 0}, "rate above 0 frames per second, or None, got 0"),
        ({"steps": [], "rate": True}, "rate above 0"),
        ({"steps": [], "rate": "25"}, "rate above 0"),
        ({"steps": [], "rate": float("nan")}, "rate above 0"),
        ({"steps": [], "reset": 3}, "reset as text"),
    ],
)
def test_what_it_does_not_know_it_refuses(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        Recipe.from_json(values)


def test_a_network_notes_its_steps_and_shares_no_recipe_with_its_copy():
    cnn = prepare(FcNet())
    net = prernn.convert(cnn, "fc6", cell="lstm", hidden="band:03", image_size=(8, 8))
    deep = prernn.convert(net, "fc7", cell="gru")
    assert [step.name for step in net.recipe.steps] == ["convert"]
    assert [step.name for step in deep.recipe.steps] == ["convert", "convert"]
    assert net.recipe.steps[0].arguments["hidden"] == "band:3"
    assert net.recipe.steps[0].arguments["image_size"] == [8, 8]
    assert "image_size" not in deep.recipe.steps[1].arguments
    deep.recipe = replace(deep.recipe, labels=["a"])
    assert net.recipe.labels is None
    assert deep.recipe["labels"] == ["a"]


def test_what_is_not_set_reads_as_none():
    """As ``recipe["labels"]`` of a time when recipes were dicts."""
    recipe = Recipe(backbone="resnet18")
    assert recipe["labels"] is recipe["transform"] is None
    assert recipe["backbone"] == "resnet18"
    with pytest.raises(KeyError, match="label"):
        recipe["label"]
