"""Run under torchrun by the tests: five training steps, or one validation pass, and what came of it as a file.

steps_of_ranks.py train DEVICE BATCH_NORM FILE    BATCH_NORM: fixed (evaluation mode) or sync
steps_of_ranks.py evaluate DEVICE DATA_PATH FILE  8 images a process at a time
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import amp
import archs
import augment
import dataset
import engine
import runtime as rt


class SharedBatches:
    """Five batches of 16, of which each rank gets its part."""

    def __init__(self, runtime: rt.Runtime):
        draws = torch.Generator().manual_seed(4)
        share = 16 // runtime.world_size
        own = slice(runtime.rank * share, (runtime.rank + 1) * share)
        self.batches = []
        for _ in range(5):
            images = torch.randn(16, 3, 32, 32, generator=draws)
            target = (images.mean(1, keepdim=True) > 0).float()
            self.batches.append((images[own], target[own], {}))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def train(runtime: rt.Runtime, batch_norm: str) -> dict:
    torch.manual_seed(0)
    model = archs.UNet(1, 3).to(runtime.device)
    if batch_norm == "sync":
        model = engine.share_batch_norm(model, runtime)
    else:
        for module in model.modules():
            if isinstance(module, amp.NORMS):
                module.eval()
                module.train = lambda mode=True: None
            elif isinstance(module, torch.nn.Conv2d):
                module.weight.data *= 2.4  # else, without BatchNorm's help, hardly anything comes through
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2 if batch_norm == "fixed" else 1e-3)
    precision = amp.prepare(model, optimizer, runtime, "O0", 128.0)
    net, criterion = engine.distribute(model, runtime), engine.build_criterion("BCEWithLogitsLoss")
    batches, losses = SharedBatches(runtime), []
    for batch in batches.batches:
        batches.batches = [batch]
        losses.append(engine.train_epoch(net, batches, criterion, precision, runtime, 0)["loss"])
    weights = {name: value.cpu() for name, value in precision.weights().items()}
    moved = {name: weights[name] - value.cpu() for name, value in before.items()}
    return {"losses": losses, "weights": weights, "moved": moved}


def evaluate(runtime: rt.Runtime, data_path: str) -> dict:
    ids = sorted(path.stem for path in Path(data_path, "images").iterdir())
    data = dataset.NucleiDataset(Path(data_path), ids, augment.val_transform(16, 16))
    loader = dataset.val_loader(data, 8 * runtime.world_size, 0, False, runtime.rank, runtime.world_size)
    torch.manual_seed(0)
    criterion = engine.build_criterion("LovaszHingeLoss")
    model, seen = archs.UNet(1, 3).to(runtime.device), []
    result = engine.evaluate(model, loader, criterion, runtime, lambda logits, target, own: seen.append(own))
    return result | {"seen": seen}


if __name__ == "__main__":
    task, device, what, path = sys.argv[1:]
    with rt.init(device, several=True) as runtime:
        found = {"train": train, "evaluate": evaluate}[task](runtime, what)
        torch.save(found, f"{path}.{runtime.rank}")
