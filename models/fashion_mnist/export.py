"""Write the FP32 artifacts from the checkpoint: `python -m fashion_mnist.export`."""

from __future__ import annotations

import copy
from pathlib import Path

import litert_torch
import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fashion_mnist.data import training_and_validation
from fashion_mnist.network import MobileNetV3Small
from fashion_mnist.preprocessing import SIDE_PX, batch_tensor
from fashion_mnist.tflite_file import name_ends
from fashion_mnist.train import load
from fashion_mnist.variants import INPUT_NAME, OUTPUT_NAME, VARIANTS, session

OPSET = 18
IR_VERSION = 10  # the newest that onnxruntime 1.18 to 1.32 all read
PARITY_IMAGES = 500
PARITY_LOGITS = 1e-3
"""Largest difference of a logit from PyTorch's; logits here lie between about -10 and 15."""


def folded(network: MobileNetV3Small) -> MobileNetV3Small:
    """Return a copy whose batch norms are folded into the convolutions before them."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                convolution, norm = module[index], module[index + 1]
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    module[index] = fuse_conv_bn_eval(convolution, norm)
                    module[index + 1] = nn.Identity()
    return network


def write_onnx(network: MobileNetV3Small, path: Path) -> None:
    """Write one self-contained ONNX file with a dynamic batch size N."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 1, SIDE_PX, SIDE_PX),),
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        optimize=True,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    model.ir_version = IR_VERSION
    # The exporter notes which line of which file each node came from: 200 kB that no runtime
    # reads, with the folders of the machine that exported.
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del holder.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class ChannelLast(nn.Module):
    """The network with TFLite's layout, and with names for its input and output."""

    def __init__(self, network: MobileNetV3Small) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return float32 logits [1, 10] for float32 [1, 56, 56, 1]."""
        return {OUTPUT_NAME: self.network(image.permute(0, 3, 1, 2))}


def write_tflite(network: MobileNetV3Small, path: Path) -> None:
    """Write a TFLite file for one picture, channel last: float32 [1, 56, 56, 1]."""
    sample = {INPUT_NAME: torch.zeros(1, SIDE_PX, SIDE_PX, 1)}
    litert_torch.convert(ChannelLast(network).eval(), sample_kwargs=sample).export(str(path))
    name_ends(path)


def check_parity(network: MobileNetV3Small) -> None:
    """Compare both files with PyTorch on real validation images.

    Raises:
        ValueError: a logit differs by more than PARITY_LOGITS.
    """
    _, held_out = training_and_validation()
    images = batch_tensor(held_out.images[:PARITY_IMAGES])
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    for variant in VARIANTS:
        if variant.precision != "fp32":
            continue
        loaded = session(variant)
        found = np.stack([loaded.logits(image[np.newaxis]) for image in images])
        difference = float(np.abs(found - expected).max())
        print(
            f"{variant.name}: {variant.path.stat().st_size} bytes, largest difference of a "
            f"logit from PyTorch {difference:.1e} on {PARITY_IMAGES} images"
        )
        if not difference <= PARITY_LOGITS:
            raise ValueError(f"{variant.name} differs from PyTorch by {difference}, allowed {PARITY_LOGITS}")


def main() -> None:
    """Write both FP32 artifacts and compare them with PyTorch."""
    network = load()
    plain = folded(network)
    writers = {"onnx": write_onnx, "tflite": write_tflite}
    for variant in VARIANTS:
        if variant.precision == "fp32":
            variant.path.parent.mkdir(parents=True, exist_ok=True)
            writers[variant.runtime](plain, variant.path)
    check_parity(network)


if __name__ == "__main__":
    main()
