"""Fine-tuning under class gaussians with few labels and many unlabelled images.

The class gaussians are the fixed point of the labelled latents (means alone). Half of a batch is
labelled and lies under its class, half is unlabelled and lies under the mixture of all classes:

    - mean log p(z_i | y_i) - mean log (1/K) sum_y p(z_j | y)

as in FlowGMM (Izmailov et al. 2020, arXiv:1912.13025), whose means are random.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch

from nfaug import Flow
from nfaug.data.images import TensorImages
from nfaug.gaussians.fixed_point.solver import FixedPointConfig, solve
from nfaug.gaussians.gaussians import ClassGaussians
from nfaug.training import TrainConfig
from nfaug.training.config import OptimConfig
from nfaug.training.run.distributed import draw_noise
from nfaug.training.run.optimizer import FlowOptimizer

__all__ = ["class_gaussians", "fine_tuned"]

_HALF = 32
_LR = 5e-3
# A tenth of the default weight: means at a third of the distance. With 50 labels per class, most
# unlabelled images lie nearest to a wrong mean at first, and the full distance would leave them
# there.
_WEIGHT = 0.1


@torch.enable_grad()
def fine_tuned(
    flow: Flow, labelled: TensorImages, unlabelled: torch.Tensor, *, steps: int, seed: int
) -> Flow:
    """A copy of the flow, trained for `steps` on uint8 images (N, C, H, W) of both kinds."""
    flow = deepcopy(flow).train().requires_grad_(True)
    gaussians = class_gaussians(flow, labelled)
    config = TrainConfig(lr=_LR, optim=OptimConfig(warmup_steps=50))
    optimizer = FlowOptimizer(flow, config)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        known = torch.randint(len(labelled), (_HALF,), generator=draws)
        others = torch.randint(len(unlabelled), (_HALF,), generator=draws)
        batch = torch.cat([labelled.images[known], unlabelled[others]])
        z, logdet = flow.encode(batch, draw_noise(flow, len(batch), draws))
        under = gaussians.log_prob(z[:_HALF], labelled.targets[known])
        mixture = gaussians.log_prob(z[_HALF:]).logsumexp(1) - math.log(gaussians.num_classes)
        nll = -(torch.cat([under, mixture]) + logdet)
        optimizer.step(flow.codec.bits_per_dim(nll).mean(), step / steps)
    return optimizer.average.eval()


@torch.no_grad()
def class_gaussians(flow: Flow, labelled: TensorImages) -> ClassGaussians:
    """Means by the fixed point on the labelled latents; identity covariances."""
    z = torch.cat([flow.encode(part)[0].flatten(1) for part in labelled.images.split(128)])
    classes = range(len(labelled.classes))
    means = torch.stack([z[labelled.targets == y].mean(0) for y in classes])
    weight = FixedPointConfig().weight(*means.shape)
    found = solve(
        means, torch.ones_like(means), FixedPointConfig(fit="means", kld_weight=_WEIGHT * weight)
    )
    return ClassGaussians(found.means.float(), found.variances.float())
