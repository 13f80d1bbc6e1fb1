"""NFA in a LightningModule: on the device, after the batch transfer, in training only.

    python examples/lightning_module.py DATA --checkpoint my-nfa

DATA holds one folder per class. Fit the checkpoint to these classes (nfaug fit). NFA is a
sub-module, but its tensors are not among the module's parameters, checkpoints or optimiser state.
The script prints Lightning's progress and NFA's counters, {'seen': ..., 'applied': ..., ...}.
"""

from __future__ import annotations

import argparse

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from nfaug import NFAugment


class Classifier(lightning.LightningModule):
    def __init__(self, nfa: NFAugment, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["nfa"])  # pass nfa= to load_from_checkpoint, too
        self.nfa = nfa
        self.lr = lr
        self.model = resnet18(num_classes=nfa.num_classes)
        self.loss = nn.CrossEntropyLoss()

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return self.nfa(batch) if self.trainer.training else batch

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return self.loss(self.model(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--checkpoint", required=True, help="a directory or a Hub repository")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()

    size = args.img_size  # of the shorter side, then of the centre, as nfaug fit has it
    steps = [v2.ToImage(), v2.Resize(size), v2.CenterCrop(size)]
    steps.append(v2.ToDtype(torch.float32, scale=True))
    dataset = ImageFolder(args.data, v2.Compose(steps))
    nfa = NFAugment.from_pretrained(args.checkpoint, p=0.5)
    nfa.check_classes(dataset)
    loader = DataLoader(dataset, args.batch_size, shuffle=True, num_workers=args.workers)
    trainer = lightning.Trainer(
        max_epochs=args.epochs, logger=False, enable_checkpointing=False, accelerator="auto"
    )
    trainer.fit(Classifier(nfa), loader)
    print(nfa.stats())


if __name__ == "__main__":
    main()
