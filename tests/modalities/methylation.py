"""Methylation: the share of methylated reads per region, a modality that MoRE does not come with."""

import numpy as np
import torch
from torch import nn

from more_scvi.data import ValueRules
from more_scvi.losses import masked_gaussian
from more_scvi.modalities import LowRankMap, Modality, PrincipalComponents, register_modality


def logit(share):
    share = np.clip(share, 0.02, 0.98)
    return np.log(share / (1 - share)).astype(np.float32)


class MethylationPath(PrincipalComponents):
    """Components of arcsine square roots: the noise of a share is the same everywhere on this scale."""

    def values(self, x):
        return np.arcsin(np.sqrt(x)).astype(np.float32)


class MethylationDecoder(nn.Module):
    """Gaussian likelihood of logits."""

    def __init__(self, n_latent, n_features):
        super().__init__()
        self.map = LowRankMap(n_latent, n_features)  # zero at the start: every cell is the average cell
        self.average = nn.Parameter(torch.zeros(n_features))
        self.log_scale = nn.Parameter(torch.zeros(n_features))

    @torch.no_grad()
    def fit_average(self, target, totals):
        values = logit(target.toarray())
        self.average.copy_(torch.from_numpy(values.mean(0)))
        self.log_scale.copy_(torch.from_numpy(np.log(values.std(0) + 0.1)))

    def loss(self, z, target, totals, hidden):
        values = torch.logit(target.clamp(0.02, 0.98))
        return masked_gaussian(values, self.average + self.map(z), self.log_scale, hidden)


class Methylation(Modality):
    name, title, features = "methylation", "methylation", "regions"
    values = ValueRules(("share",), "shares of methylated reads, 0 to 1, are needed", feature="region", maximum=1.0)

    def path(self, n_features, data_type, n_variable, n_components, n_wide):
        return MethylationPath(n_features, n_components, n_wide)

    def decoder(self, data_type, n_latent, n_features):
        return MethylationDecoder(n_latent, n_features)

    def imputed(self, x, path):
        return x.toarray()

    def expected(self, values):
        return np.clip(values, 0.0, 1.0).astype(np.float32)


register_modality(Methylation())
