"""Tables 1, 2 and 3 of the supplement of "Making Convolutional Networks Recurrent for Visual Sequence Learning"."""

from collections.abc import Iterator

from prernn.studies.papers.cells import Cell, nonlinearities, prernn, traditional
from prernn.studies.papers.prernn_paper import FACE_LAYERS, conv_networks
from prernn.studies.papers.trainings import ACTION, FACE

SIZES = (256, 512, 1024, 2048, 4096)

TABLE1 = {  # test loss on 300VW of traditional RNNs of 2 layers; their matched sizes and PreRNN are cells of Table 2
    #        256     512     1024    2048    4096 hidden units
    "vrnn": (0.1414, 0.1509, 0.1462, 0.1398, 0.1216),
    "lstm": (0.2039, 0.1806, 0.1669, 0.1648, 0.1508),
    "gru": (0.1471, 0.1409, 0.1295, 0.1292, 0.1286),
}

TABLE2 = {"vrnn": 0.1122, "lstm": 0.1454, "gru": 0.1077}  # test loss on 300VW: fc6/7 and a random layer on top

TABLE3 = {  # accuracy on UCF101's first split, both streams, %: W_xy reinitialized
    "prevrnn": 92.0,
    "prelstm": 92.8,
    "pregru": 92.8,
    "prelstm-sih": 92.7,
    "pregru-sih": 91.8,
}


def _table1() -> Iterator[Cell]:
    for rnn, losses in TABLE1.items():
        for size, loss in zip(SIZES, losses, strict=True):
            title = "PreRNN supplement, Table 1 (hidden sizes)"
            for name, more in nonlinearities(rnn).items():
                recipe = traditional(rnn, size, 2, **more)
                yield Cell(f"supplement1/tra{rnn}{name}-{size}", title, FACE, recipe, {"test loss": f"{loss:.4f}"})


def _table2() -> Iterator[Cell]:
    for rnn, loss in TABLE2.items():
        title = "PreRNN supplement, Table 2 (a random layer on top)"
        for name, more in nonlinearities(rnn).items():
            recipe = prernn(rnn, list(FACE_LAYERS), layers_on_top=1, **more)
            yield Cell(f"supplement2/pre{rnn}-fc67-random{name}", title, FACE, recipe, {"test loss": f"{loss:.4f}"})


def _table3() -> Iterator[Cell]:
    for stream, training in ACTION.items():
        for name, recipe in conv_networks().items():
            title = "PreRNN supplement, Table 3 (layer reinitialized)"
            published = {"both streams": f"{TABLE3[name]:.1f} %"}
            drawn_anew = {**recipe, "pretrained_layer": False}
            yield Cell(f"supplement3/{name}-{stream}", title, training, drawn_anew, published)


PRERNN_SUPPLEMENT = [*_table1(), *_table2(), *_table3()]
