"""The tutorial's networks in PyTorch, on the processor: `python benchmarks/torch_peer.py NETWORK STEPS`.

Run by `benchmarks.training` with a Python that has PyTorch, and nothing of Conveyor's. It prints one JSON object:
`seconds`, of each step, and `version`. As PyTorch's documentation has it: eager, float32, channels last for images.
"""

import json
import sys
import time

import torch
from torch import nn

WARM_UP = 5  # steps that are not timed


def mnist() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, 1024),
        nn.ReLU(),
        nn.Linear(1024, 10),
    )


def cifar10() -> nn.Module:
    pool = (nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))  # as SAME pads
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, padding="same"),
        nn.ReLU(),
        *pool,
        nn.Conv2d(64, 64, 5, padding="same"),
        nn.ReLU(),
        *pool,
        nn.Conv2d(64, 128, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding="same"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 8 * 128, 384),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(384, 10),
    )


NETWORKS = {
    "mnist": (mnist, (50, 1, 28, 28), lambda parameters: torch.optim.Adam(parameters, lr=1e-4)),
    "cifar10": (cifar10, (128, 3, 32, 32), lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, alpha=0.9)),
}


def main(name: str, steps: int) -> list[float]:
    make, shape, optimizer_of = NETWORKS[name]
    model = make().to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model.parameters())
    images = torch.rand(shape).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, shape[:1])
    seconds = []
    for _ in range(WARM_UP + steps):
        started = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


if __name__ == "__main__":
    print(json.dumps({"seconds": main(sys.argv[1], int(sys.argv[2])), "version": torch.__version__}))
