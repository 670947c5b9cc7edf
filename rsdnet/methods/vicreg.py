"""The variance and covariance terms of VICReg, Bardes et al. 2022 (arXiv 2105.04906): against projections that fill few
directions. Options of any method.
"""

import torch
from torch import Tensor, nn

from rsdnet.model.batchnorm import mean_over_ranks

EPS = 1e-4  # facebookresearch/vicreg, main_vicreg.py


def vicreg_terms(z: Tensor, world: int = 1) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of the projections z (V, B, D) of V views: sums over the views, () float32 each.

        variance    mean_j max(0, 1 - sqrt(C_jj + 1e-4))      eq. 1 and 2
        covariance  sum_{i != j} C_ij^2 / D                   eq. 3 and 4

    C: (D, D) covariance over the batch of all `world` ranks, of projections scaled to length sqrt(D): the other losses
    here see directions alone, by which a term on lengths would have no bearing.
    """
    unit = nn.functional.normalize(z.float(), dim=2) * z.shape[2] ** 0.5
    own, count = z.shape[1], z.shape[1] * world
    # Scaled before the product, whose sums fp16 could not hold.
    centred = (unit - _mean(unit.mean(1, keepdim=True), world)) / (own * (1 - 1 / max(count, 2))) ** 0.5
    matrix = _mean(centred.mT @ centred, world).float()
    squares = matrix.diagonal(dim1=1, dim2=2)
    variance = torch.relu(1 - (squares + EPS).sqrt()).mean(1)
    covariance = (matrix.square().sum((1, 2)) - squares.square().sum(1)) / z.shape[2]
    return variance.sum(), covariance.sum()


def _mean(x: Tensor, world: int) -> Tensor:
    """The mean of all ranks' x."""
    return mean_over_ranks(x, world) if world > 1 else x
