"""The table of the talk "PreRNN and BandRNN for Video Understanding": the last layer of ResNet-50 with sparse W_hh."""

from collections.abc import Iterator

from prernn.studies.papers.cells import Cell
from prernn.studies.papers.prernn_paper import conv_networks
from prernn.studies.papers.trainings import ACTION

STRUCTURES = ("diagonal", "band:21", "band:101", "band:201")
"""The talk's diag, 1 %, 5 % and 10 %: bands of this many of 2048 columns."""

ACCURACY = {  # on UCF101, both streams, %
    #               diag  1 %   5 %   10 %
    "prevrnn": (91.9, 92.3, 92.0, 92.2),
    "prelstm": (92.7, 92.8, 92.9, 93.2),
    "pregru": (92.8, 92.8, 92.8, 92.9),
    "prelstm-sih": (92.6, 93.0, 92.7, 92.9),
    "pregru-sih": (92.5, 92.5, 92.3, 92.6),
}


def _cells() -> Iterator[Cell]:
    title = "PreRNN and BandRNN talk (band 1 %, 5 %, 10 % of 2048)"
    for stream, training in ACTION.items():
        for network, recipe in conv_networks().items():
            for hidden, accuracy in zip(STRUCTURES, ACCURACY[network], strict=True):
                name = f"bandrnn/{network}-{hidden.replace(':', '')}-{stream}"
                published = {"both streams": f"{accuracy:.1f} %"}
                yield Cell(name, title, training, {**recipe, "hidden": hidden}, published)


BANDRNN_TALK = list(_cells())
