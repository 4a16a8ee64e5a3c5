"""Convolutional networks that learn small pictures, as single trainings: convolutions of paths, or dense ones.

The paths go through the channels of all layers, as through the neurons of `prernn.PathNetwork`; between two layers each
path has a kernel of 3x3. The first convolution, which reads the picture, is dense, and so is the output layer.
"""

import functools
import itertools
import time

import torch
from torch import nn

from prernn.benchmarks.measuring import cifar, vgg
from prernn.benchmarks.measuring.path_networks.jobs import DENSE, Job, Result, options_of
from prernn.sparsity.path_convolution import PathConv2d
from prernn.sparsity.paths import drawn_paths

WIDTHS = (32, 64, 128, 256)
"""Channels; every convolution but the last is followed by pooling, so that maps are 32, 16, 8 and 4 wide."""
TAPS = 9
read = functools.cache(vgg.read)


def build(job: Job, classes: int) -> nn.Sequential:
    """Builds the network described by its name: ``(B, 3, 32, 32)`` to ``(B, classes)``."""
    sampler, options = options_of(job.sampler)
    init = options.pop("init", "mixed")
    drawn = None
    if sampler != DENSE:
        drawn = drawn_paths(job.widths, job.paths, sampler=sampler, seed=job.seed, **options)
    layers: list[nn.Module] = [nn.Conv2d(3, job.widths[0], 3, padding=1, bias=False), *_behind(job.widths[0])]
    for number, (inputs, outputs) in enumerate(itertools.pairwise(job.widths)):
        layers.append(nn.MaxPool2d(2))
        if drawn is None:
            layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        else:
            own = drawn[:, number : number + 2]
            path_layer = PathConv2d(inputs, outputs, 3, job.paths, padding=1, bias=False, init=init, drawn=own)
            layers.append(path_layer.merged())  # one kernel for each pair, as in digits.build
        layers += _behind(outputs)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(job.widths[-1], classes))


def _behind(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()]


def train(job: Job) -> Result:
    """Runs one training, in float32."""
    start = time.thread_time()
    net, weights = trained(job)
    seconds = time.thread_time() - start
    pictures = read(job.data)
    coincident = job.taps * job.paths * (len(job.widths) - 1) - weights if job.paths else 0
    return Result(job, cifar.accuracy(net, *pictures.test), weights, coincident, seconds=seconds)


def trained(job: Job) -> tuple[nn.Module, int]:
    """The network of a training, in evaluation mode, and the number of weights between its layers of channels."""
    pictures = read(job.data)
    torch.manual_seed(job.seed)
    net = build(job, int(max(pictures.train[1].max(), pictures.test[1].max())) + 1)
    inner = [layer for layer in net[1:] if isinstance(layer, PathConv2d | nn.Conv2d)]
    vgg.train(net, pictures.first(job.pictures), job.epochs, job.rate, bfloat16=False, quiet=True)
    return net.eval(), sum(layer.weight.numel() for layer in inner)
