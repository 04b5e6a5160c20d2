"""Train the network: `python -m fashion_mnist.train` from the folder `models`.

AdamW with one cycle of the learning rate and, once that has warmed up, an exponential moving
average of the weights. The average of the epoch with the best validation accuracy is kept; the
test images are not looked at here.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fashion_mnist.augmentation import augmented
from fashion_mnist.convolutions import quicken
from fashion_mnist.data import CACHE, LabelledImages, training_and_validation
from fashion_mnist.network import MobileNetV3Small, parameter_count
from fashion_mnist.preprocessing import MEAN, STD, resized_batch

CHECKPOINT = CACHE / "checkpoint.pt"


@dataclass(frozen=True)
class Settings:
    """What a training run depends on besides the data."""

    seed: int = 1905_02244
    epochs: int = 26
    warm_up_epochs: int = 5
    batch: int = 256
    peak_rate: float = 4e-3
    weight_decay: float = 0.02
    smoothing: float = 0.05
    averaging: float = 0.998
    threads: int = 2


def as_tensors(images: LabelledImages) -> tuple[Tensor, Tensor]:
    """Return uint8 [N, 1, 56, 56] and int64 [N]."""
    pictures = torch.from_numpy(resized_batch(images.images)).unsqueeze(1)
    return pictures, torch.from_numpy(images.labels.astype(np.int64))


def network_input(pictures: Tensor) -> Tensor:
    """Return float32 of the same shape, as `preprocessing.normalised` computes it."""
    return (pictures.float() / 255 - MEAN) / STD


@torch.inference_mode()
def logits_of(network: nn.Module, pictures: Tensor, batch: int = 500) -> Tensor:
    """Return float32 logits [N, 10] for uint8 [N, 1, 56, 56], in evaluation mode."""
    network.eval()
    return torch.cat([network(network_input(part)) for part in pictures.split(batch)])


def trained(settings: Settings) -> tuple[MobileNetV3Small, float]:
    """Return the network of the best epoch and its accuracy on the validation images."""
    print(settings, flush=True)
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    generator = torch.Generator().manual_seed(settings.seed)
    (pictures, labels), held_out = map(as_tensors, training_and_validation())

    network: nn.Module = MobileNetV3Small()
    quicken(network)
    print(f"{parameter_count(network)} parameters", flush=True)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging), use_buffers=True)
    optimiser = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=0)
    batches = len(labels) // settings.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        settings.peak_rate,
        settings.epochs * batches,
        pct_start=settings.warm_up_epochs / settings.epochs,
    )
    best, best_accuracy = copy.deepcopy(network), 0.0
    for epoch in range(1, settings.epochs + 1):
        started_s, loss_sum = time.monotonic(), 0.0
        network.train()
        order = torch.randperm(len(labels), generator=generator)
        for rows in order[: batches * settings.batch].view(batches, -1):
            logits = network(network_input(augmented(pictures[rows], generator)))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=settings.smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if epoch > settings.warm_up_epochs:
                averaged.update_parameters(network)
            loss_sum += loss.item()
        candidate = averaged.module if epoch > settings.warm_up_epochs else network
        accuracy = accuracy_of(candidate, *held_out)
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(candidate), accuracy
        print(
            f"epoch {epoch:2d}: loss {loss_sum / batches:.4f}, validation {accuracy:.2%}, "
            f"{time.monotonic() - started_s:.0f} s",
            flush=True,
        )
    plain = MobileNetV3Small()
    plain.load_state_dict(best.state_dict())
    return plain, best_accuracy


def accuracy_of(network: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Return the share of pictures, from 0 to 1, whose largest logit is the label's."""
    return float((logits_of(network, pictures).argmax(1) == labels).float().mean())


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay filters and matrices only: decaying biases and norms costs accuracy."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def load(checkpoint: Path = CHECKPOINT) -> MobileNetV3Small:
    """Return the trained network in evaluation mode."""
    network = MobileNetV3Small()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return network.eval()


def main() -> None:
    """Train and keep the checkpoint."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    arguments = parser.parse_args()
    if arguments.epochs <= defaults.warm_up_epochs:
        parser.error(
            f"--epochs {arguments.epochs}: the learning rate warms up for {defaults.warm_up_epochs}, take more"
        )
    network, accuracy = trained(Settings(**vars(arguments)))
    CACHE.mkdir(exist_ok=True)
    partial = CHECKPOINT.with_suffix(".part")
    torch.save(network.state_dict(), partial)
    partial.replace(CHECKPOINT)
    print(f"kept the best epoch ({accuracy:.2%} of the validation images) in {CHECKPOINT.name}")


if __name__ == "__main__":
    main()
