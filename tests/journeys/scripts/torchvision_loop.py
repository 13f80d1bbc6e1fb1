"""torchvision's training loop with NFA in the loader's workers, for each given start method."""

import json
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from nfaug import NFAugment
from nfaug.integrations.torchvision import NFACollate


def main(data: str, flow: str, methods: list[str]) -> None:
    torch.manual_seed(0)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    dataset = ImageFolder(data, transform)
    plain = torch.stack([image for image, _ in dataset])
    nfa = NFAugment.from_pretrained(flow, p=1.0, gate=False)
    nfa.check_classes(dataset)
    model = resnet18(num_classes=len(dataset.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    changed = {}
    for method in methods:
        loader = DataLoader(
            dataset,
            batch_size=12,
            collate_fn=NFACollate(nfa),
            num_workers=1,
            multiprocessing_context=method,
        )
        changed[method] = 0
        for step, (images, labels) in enumerate(loader):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            before = plain[12 * step : 12 * step + 12]
            changed[method] += int((images != before).flatten(1).any(1).sum())
    print(json.dumps(changed))


if __name__ == "__main__":
    main(*sys.argv[1:3], sys.argv[3:])
