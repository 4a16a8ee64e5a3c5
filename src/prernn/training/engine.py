"""Tests and predictions in an engine other than torch."""

import lightning as L

from prernn.engines.opening import opened
from prernn.training.module import VideoModule


class InEngine(L.Callback):
    """Lets an engine compute tests or predictions, step by step, once the weights are those of the checkpoint.

    Args:
        engine: "torch", "onnxruntime", "openvino" or "auto".
        precision: "float32", "bfloat16", "float16" or "int8".
    """

    def __init__(self, engine: str, precision: str = "float32"):
        self.engine, self.precision = engine, precision

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before the first batch of a test."""
        self._begin(module)

    def on_predict_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Before the first batch of a prediction."""
        self._begin(module)

    def _begin(self, module: L.LightningModule) -> None:
        assert isinstance(module, VideoModule)
        network = opened(module.network, self.engine, self.precision)
        module.evaluate_by(network)
        print(f"prernn: computed by {network.engine}, {network.precision}, frame by frame")
