"""Measures of a batch's projections, on their device: whether views agree and places lie apart.

BYOL's loss alone does not tell: projections that have all become one point give the lowest loss there is.
"""

import torch
from torch import Tensor, nn


def spread(first: Tensor, second: Tensor) -> Tensor:
    """Standard deviation over the batch of the mean of a sample's two projections (B, D), scaled by sqrt(D).

    Projections are L2-normalised first. The mean over the two views cancels the difference of the sensors: a network
    that encodes the sensor alone has a spread of 0, as one that projects everything to one point has (collapse: Chen
    and He 2021, arXiv 2011.10566, figure 2). About 1 where views agree and places lie evenly.
    """
    shared = _shared(first, second)
    return shared.std(dim=0, correction=0).mean() * shared.shape[1] ** 0.5


def measures(z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
    """Measures of the projections (B, D) of a batch's two views, 0-dim float32 on their device; no gradient.

    "spread", "effective_rank" and "cosine", all of the mean of a sample's two projections: see the functions below.
    Call it rarely: the eigenvalues make the host wait for the device.
    """
    shared = _shared(z1, z2)
    return {"spread": spread(z1, z2), "effective_rank": effective_rank(shared), "cosine": mean_cosine(shared)}


def effective_rank(matrix: Tensor) -> Tensor:
    """exp of the entropy of the singular values of `matrix` (B, D) over their sum: how many directions it fills.

    Between 1 and min(B, D), float32; NaN where the matrix is not finite. Roy and Vetterli 2007 (The effective rank,
    EUSIPCO), definition 1; RankMe, Garrido et al. 2023 (arXiv 2210.02885), equations 1 and 2, who find that it goes
    with what a linear classifier reads off. Not centred, as there: of projections fallen into one point, centring would
    leave the noise, which fills every direction.
    """
    matrix = matrix.double()  # squares of singular values: in float32 a small one would drown in the largest's rounding
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    values = torch.linalg.eigvalsh(gram.nan_to_num(0, 0, 0)).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp().float()
    return torch.where(gram.isfinite().all(), rank, torch.nan)


def mean_cosine(shared: Tensor) -> Tensor:
    """Mean of the inner products of all pairs of different rows of `shared` (B, D), float32: |sum|^2 less the squares.

    Where a row is the mean of the unit vectors of a sample's two views, this is the mean cosine of the projections of
    two different samples, over all pairs of samples and of views: 1 where all lie in one point.
    """
    rows = shared.double()
    pairs = max(len(rows) * (len(rows) - 1), 1)
    return ((rows.sum(0).square().sum() - rows.square().sum()) / pairs).float()


def _shared(first: Tensor, second: Tensor) -> Tensor:
    """(B, D) float32: the mean of a sample's two projections, each of length 1."""
    units = [nn.functional.normalize(z.detach().float(), dim=1, eps=1e-6) for z in (first, second)]
    return (units[0] + units[1]) / 2
