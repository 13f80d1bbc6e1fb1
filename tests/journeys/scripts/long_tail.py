"""A training loop on a bank of images as they are found."""

import json
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

from nfaug import open_dataset
from nfaug.bank import BankDataset


def main(data: str, bank: str) -> None:
    torch.manual_seed(0)
    images = open_dataset(data, image_size=32, channels=3, on_error="skip")
    dataset = BankDataset(images, bank, p=1.0, transform=to_tensor)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, len(images.classes)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for batch, labels in DataLoader(dataset, batch_size=9, shuffle=True, num_workers=2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    replaced = [
        not torch.equal(dataset[index][0], images[index][0] / 255) for index in range(len(images))
    ]
    print(json.dumps({"classes": images.classes, "replaced": replaced}))


def to_tensor(image) -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1) / 255


if __name__ == "__main__":
    main(*sys.argv[1:])
