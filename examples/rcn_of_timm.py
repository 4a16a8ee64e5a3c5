"""A timm network whose convolutions all remember (RCN) sees through noise, before any training.

    python examples/rcn_of_timm.py                          # EfficientNet-Lite0; its weights come with prernn[demo]
    python examples/rcn_of_timm.py --backbone timm/resnet18 # any other network of timm, which downloads its weights

Each convolution gets a state, ``h_t = (W_hh h_{t-1} + u_t) / 2``, and W_hh starts as the identity. A still video gets
the CNN's answers, and in a noisy one each layer averages over time. This is where fine-tuning starts.
"""

import argparse

import cv2
import torch
from skimage.data import chelsea
from torch import Tensor

import prernn
from prernn.media.transforms import TransformSpec, frame_transform

FRAMES, CATS = 16, slice(281, 286)  # ImageNet's classes of house cats


def still_video(net: prernn.RecurrentNetwork, noise: float) -> Tensor:
    """A photograph of a cat as a video ``(1, T, 3, H, W)``, with new noise in each frame."""
    spec = TransformSpec(**net.recipe.transform)  # size, mean and standard deviation that the network was trained with
    picture = frame_transform(spec)(cv2.resize(chelsea()[:, 50:350], (256, 256)))
    return picture + noise * torch.randn(1, FRAMES, *picture.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbone", default="efficientnet_lite0", help="a name that timm knows")
    parser.add_argument("--noise", type=float, default=0.9, help="deviation, in those of ImageNet's pixels")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)

    cnn = prernn.backbone(options.backbone, pretrained=True).eval()  # or timm.create_model(...), or your own module
    net = prernn.convert_rcn(cnn, hidden="diagonal")
    new = prernn.recurrent_parameters(net).introduced
    print(f"{len(net.recurrent_layers)} convolutions of {options.backbone} are recurrent, with {new:,} new weights")

    clean = still_video(net, noise=0.0)
    truth = cnn(clean[:, 0])
    out, state = net(clean)
    print(f"still video: outputs differ from the CNN's by {float((out - truth).abs().max()):.0e} at most")

    # A stream: one frame at a time, at the same cost per frame, however long it runs.
    noisy, state = still_video(net, options.noise), None
    print(f"that it is a cat: {float(truth.softmax(-1)[0, CATS].sum()):.0%} without noise; of noisy frames:")
    for number, frame in enumerate(noisy.unbind(1)):
        out, state = net.step(frame, state)
        alone, remembering = (float(values.softmax(-1)[0, CATS].sum()) for values in (cnn(frame), out))
        print(f"  frame {number:2}: the CNN {alone:4.0%}, the RCN {remembering:4.0%}")


if __name__ == "__main__":
    main()
