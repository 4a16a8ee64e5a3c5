"""Tables 2, 4, 5, 6 and 7 and Figure 3 of Yang, Molchanov and Kautz, "Making Convolutional Networks Recurrent for
Visual Sequence Learning" (CVPR 2018).

The figures are as the paper prints them, row by row.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from prernn.studies.papers.cells import Cell, nonlinearities, prernn, traditional
from prernn.studies.papers.trainings import ACTION, FACE, FACE_ANSWERED, FACE_FILTERED, GESTURE, GESTURES, on_split

RNNS = ("vrnn", "lstm", "gru")

# hidden sizes of traditional RNNs that have as many weights as PreRNN (`prernn.matched_hidden_size`): 1 layer as fc6,
# 2 layers as fc6 and fc7. Those of 2 layers for faces are the ones that the supplement's Table 1 names.
FACE_RNN = {"vrnn": {1: 2554, 2: 2740}, "lstm": {1: 7847, 2: 5761}, "gru": {1: 7403, 2: 5497}}
GESTURE_RNN = {"vrnn": {1: 2536, 2: 2732}, "lstm": {1: 4744, 2: 4240}, "gru": {1: 4535, 2: 4096}}
ACTION_RNN = {"vrnn": 1283, "lstm": 1435, "gru": 1418}

FACE_LAYERS = ("classifier.0", "classifier.3")  # fc6 and fc7 of VGG16
GESTURE_LAYERS = ("fc6", "fc7")
ACTION_LAYER = "layer4.2.conv3"  # res5c-branch2c of ResNet-50

TABLE2 = {  # AUC on 300VW
    #        traditional   PreRNN               PreRNN-SIH
    #        1      2      fc6    fc7    fc6/7  fc6    fc7    fc6/7
    "vrnn": (0.704, 0.716, 0.757, 0.742, 0.763),
    "lstm": (0.718, 0.671, 0.769, 0.754, 0.746, 0.743, 0.746, 0.719),
    "gru": (0.722, 0.698, 0.772, 0.755, 0.761, 0.768, 0.748, 0.762),
}

POST_UNITS = 512
"""Hidden units of an RNN that post-processes points; the paper does not state their number."""

TABLE4 = {  # accuracy on NVGesture, %
    "vrnn": (83.3, 80.8, 81.9, 82.9, 84.4),
    "lstm": (81.3, 81.3, 81.7, 81.9, 82.7, 80.0, 81.7, 84.2),
    "gru": (81.9, 82.5, 82.1, 81.0, 83.1, 84.4, 79.8, 83.8),
}

TABLE5 = {  # accuracy on UCF101's first split, %
    #               color  flow  both
    "travrnn": (82.9, 83.6, 91.6),
    "tralstm": (83.4, 84.0, 92.5),
    "tragru": (83.6, 83.8, 92.2),
    "prevrnn": (83.8, 84.6, 92.7),
    "prelstm": (85.3, 84.8, 93.2),
    "pregru": (84.3, 85.2, 93.7),
    "prelstm-sih": (85.0, 84.6, 93.5),
    "pregru-sih": (84.9, 84.7, 93.3),
}

TABLE6 = {  # accuracy on NVGesture, %: "Baseline (w/o RNN)" and "Ours", by modality and together
    "framewise": {"both": 81.0},
    "ours": {"color": 76.5, "depth": 84.4, "both": 85.0},
}
OURS_OF_TABLE6 = ("prevrnn-fc67", "pregru-sih-fc6")
"""The paper does not say which network "Ours" is; these two have its 84.4 % in Table 4."""

TABLE7 = {"framewise": 91.7, "pregru": 94.3}  # mean over UCF101's splits, both streams, %; ours: the best of Table 5
SPLITS = (1, 2, 3)


def fc_networks(rnn: str, layers: tuple[str, str], sizes: dict[int, int]) -> dict[str, dict[str, Any]]:
    """A row of Table 2 or 4, in the order of its columns. A VRNN has one gate: PreRNN-SIH is PreRNN."""
    fc6, fc7 = layers
    stacked = {
        f"tra{rnn}{name}-{layers}": traditional(rnn, sizes[layers], layers, **more)
        for layers in (1, 2)
        for name, more in nonlinearities(rnn).items()
    }
    row = stacked | {
        f"pre{rnn}-fc6": prernn(rnn, fc6),
        f"pre{rnn}-fc7": prernn(rnn, fc7),
        f"pre{rnn}-fc67": prernn(rnn, [fc6, fc7]),
    }
    if rnn == "vrnn":
        return row
    return row | {
        f"pre{rnn}-sih-fc6": prernn(rnn, fc6, single=True),
        f"pre{rnn}-sih-fc7": prernn(rnn, fc7, single=True),
        f"pre{rnn}-sih-fc67": prernn(rnn, [fc6, fc7], single=True),
    }


def conv_networks() -> dict[str, dict[str, Any]]:
    """PreRNN's networks of Table 5, of which the supplement and the talk have variants."""
    gate = {f"pre{rnn}": prernn(rnn, ACTION_LAYER) for rnn in RNNS}
    return gate | {f"pre{rnn}-sih": prernn(rnn, ACTION_LAYER, single=True) for rnn in ("lstm", "gru")}


def _with_figures(row: dict[str, dict[str, Any]], figures: Sequence[float]) -> Iterator[tuple[str, dict, float]]:
    """Name, recipe and figure of each network of a row; a VRNN's figure is given for both of its nonlinearities."""
    names = list(dict.fromkeys(name.replace("-relu", "") for name in row))
    known = dict(zip(names, figures, strict=True))
    for name, recipe in row.items():
        yield name, recipe, known[name.replace("-relu", "")]


def _table2() -> Iterator[Cell]:
    title = "PreRNN, Table 2 (face alignment)"
    yield Cell("table2/framewise", title, FACE, {"method": "framewise"})
    for rnn, figures in TABLE2.items():
        row = fc_networks(rnn, FACE_LAYERS, FACE_RNN[rnn])
        for name, recipe, auc in _with_figures(row, figures):
            yield Cell(f"table2/{name}", title, FACE, recipe, {"AUC": f"{auc:.3f}"})


def _figure3() -> Iterator[Cell]:
    """Competitors that can be trained here; the figure has curves and no numbers."""
    title = "PreRNN, Figure 3 (face alignment)"
    yield Cell("figure3/framewise-kalman", title, FACE_FILTERED, {"method": "framewise"})
    for rnn in RNNS:
        recipe = traditional(rnn, POST_UNITS, behind="outputs")
        yield Cell(f"figure3/tra{rnn}-post", title, FACE_ANSWERED, recipe)


def _table4() -> Iterator[Cell]:
    for rnn, figures in TABLE4.items():
        row = fc_networks(rnn, GESTURE_LAYERS, GESTURE_RNN[rnn])
        for name, recipe, accuracy in _with_figures(row, figures):
            title = "PreRNN, Table 4 (hand gestures)"
            yield Cell(f"table4/{name}", title, GESTURE, recipe, {"accuracy": f"{accuracy:.1f} %"})


def _table5() -> Iterator[Cell]:
    rows = {
        f"tra{rnn}{name}": traditional(rnn, ACTION_RNN[rnn], **more)
        for rnn in RNNS
        for name, more in nonlinearities(rnn).items()
    }
    rows |= conv_networks()
    for position, (stream, training) in enumerate(ACTION.items()):
        for name, recipe in rows.items():
            figures = TABLE5[name.replace("-relu", "")]
            published = {"accuracy": f"{figures[position]:.1f} %", "both streams": f"{figures[2]:.1f} %"}
            title = "PreRNN, Table 5 (action recognition)"
            yield Cell(f"table5/{name}-{stream}", title, training, recipe, published)


def _table6() -> Iterator[Cell]:
    known = {
        name: recipe for rnn in RNNS for name, recipe in fc_networks(rnn, GESTURE_LAYERS, GESTURE_RNN[rnn]).items()
    }
    networks = {"framewise": {"method": "framewise"}} | {name: known[name] for name in OURS_OF_TABLE6}
    for modality, training in GESTURES.items():
        for name, recipe in networks.items():
            figures = TABLE6.get(name, TABLE6["ours"])
            published = {"color and depth": f"{figures['both']:.1f} %"}
            if modality in figures:
                published = {"accuracy": f"{figures[modality]:.1f} %", **published}
            title = "PreRNN, Table 6 (hand gestures, modalities)"
            yield Cell(f"table6/{name}-{modality}", title, training, recipe, published)


def _table7() -> Iterator[Cell]:
    networks = {"framewise": {"method": "framewise"}, "pregru": conv_networks()["pregru"]}
    for name, recipe in networks.items():
        for split in SPLITS:
            for stream, training in ACTION.items():
                title = "PreRNN, Table 7 (action recognition, three splits)"
                published = {"both streams, 3 splits": f"{TABLE7[name]:.1f} %"}
                yield Cell(f"table7/{name}-split{split}-{stream}", title, on_split(training, split), recipe, published)


PRERNN_PAPER = [*_table2(), *_figure3(), *_table4(), *_table5(), *_table6(), *_table7()]
