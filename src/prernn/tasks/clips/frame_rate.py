"""The rate that a data set's videos have in common, which a network trained on them keeps to in a stream."""

from collections.abc import Sequence

from prernn.media.sampling import Sampling, same_rate
from prernn.media.video import VideoError, locate, probe

PROBED = 5
"""Videos that are asked, evenly over the list: opening one takes milliseconds, and a data set may have thousands."""


def common_rate(paths: Sequence[str]) -> float | None:
    """Frames a second of the videos, asked of five of them; None where they differ by more than 2 %.

    Videos that can't be read are passed over, and a folder of frames says nothing of time: with one among the five, or
    with none that can be read, the answer is None.
    """
    different = list(dict.fromkeys(paths))
    count = min(PROBED, len(different))
    rates = []
    for place in range(count):
        path = different[place * len(different) // count]
        try:
            if locate(path).kind == "folder":
                return None
            rates.append(probe(path).fps)
        except VideoError:
            continue
    return rates[0] if rates and all(same_rate(rate, rates[0]) for rate in rates) else None


def sampled_rate(sampling: Sampling, paths: Sequence[str]) -> float | None:
    """Frames a second of the clips that ``sampling`` makes of videos: its own, or theirs over its stride.

    None where clips have no one rate: for the rules "uniform" and "random", which take as many frames of a long video
    as of a short one, unless they say the rate that they take frames from; and where the videos have none in common.
    """
    if sampling.fps is not None:
        return sampling.fps / sampling.stride
    if sampling.rule not in ("consecutive", "all"):
        return None
    own = common_rate(paths)
    return None if own is None else own / sampling.stride
