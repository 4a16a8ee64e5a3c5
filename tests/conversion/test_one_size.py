"""CNNs whose forward asks for the frames' size: converted for one size, with a word, and refused for others."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prernn
from equations import close
from prernn.sparsity.normalize import normalized
from small_cnns import film, prepare

SMALL = {"image_size": (8, 8)}


class Asking(nn.Module):
    """Something that asks for shapes stands between two layers."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3), nn.Linear(6, 5)
        self.norm, self.between = nn.BatchNorm2d(4), between

    def forward(self, x):
        x = self.between(self.norm(self.first(x)))
        return self.fc(F.relu(self.second(x)).mean((2, 3)))


def larger(x):
    return F.max_pool2d(x, 2) if x.shape[2] > 1000 else torch.tanh(x)


def odd(x):
    height, width = x.shape[2:]
    if height % 2 or width % 2 == 1:
        return F.pad(x, (0, 1, 0, 1))
    return x * 2


def rows(x):
    total = 0
    for row in range(x.size(2) - 2):
        total = total + x[:, :, row : row + 3]
    return total


def pooled(x):
    return F.avg_pool2d(x, kernel_size=int(x.shape[-1] / 2) - 1, stride=1)


def of_four_dimensions(x):
    return x.flip(3) if len(x.shape) == 4 and x.dim() == 4 else x


BETWEEN = {"branch": larger, "odd": odd, "loop": rows, "number": pooled, "rank": of_four_dimensions}


@pytest.mark.filterwarnings("ignore:the forward of Asking")
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_a_forward_that_asks_for_the_size(between):
    cnn, video = prepare(Asking(between)), film(batch=3, steps=2)
    expected = torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1)
    with pytest.warns(
        UserWarning, match=r"forward of Asking reads the size of its frames: traced only for \(3, 8, 8\)"
    ):
        net = prernn.framewise(cnn, **SMALL)
    for each in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))) if between is not rows else (net,):
        close(each(video)[0], expected)
        with pytest.raises(ValueError, match=r"expected frames \(3, 8, 8\), the only ones .*got \(3, 9, 8\)"):
            each(film(size=(9, 8)))
    recurrent = prernn.convert(cnn, "second", cell="vrnn", **SMALL)
    for frame, out in zip(video.unbind(1), recurrent(video)[0].unbind(1), strict=True):
        assert frame.shape[0] == out.shape[0]
    still = video[:, :1].expand(-1, 3, -1, -1, -1)
    close(prernn.convert_rcn(cnn, **SMALL)(still)[0][:, 2], expected[:, 0])
    close(normalized(cnn, **SMALL)(video[:, 0]), expected[:, 0])
    clips = prernn.inflate(cnn, frames=3, **SMALL)
    close(clips(still.transpose(1, 2)), expected[:, 0])


def test_the_size_is_the_first_usual_one():
    with pytest.warns(UserWarning, match=r"traced only for \(3, 224, 224\); image_size sets another size"):
        assert prernn.framewise(Asking(larger).eval()).frame_shape == (3, 224, 224)


def test_what_asks_for_more_than_the_size_is_refused():
    def contents(x):
        return x if x.sum() > 0 else -x

    def number(x):
        return x if x.shape[0] > 2 else -x

    for between in (contents, number):
        with pytest.raises(
            NotImplementedError, match=r"can't trace Asking: .* expected a forward without control flow"
        ):
            prernn.convert(Asking(between), **SMALL)


def test_a_forward_that_asks_for_nothing_takes_any_size(recwarn):
    cnn = prepare(Asking(torch.tanh))
    net = prernn.framewise(cnn, **SMALL)
    close(net.step(film(size=(9, 11))[:, 0])[0].shape, torch.Size((2, 5)))
    assert not recwarn.list
