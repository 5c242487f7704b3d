"""How much of the embedding comes from the frozen backbone, and how much from the data themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch

from more_scvi.model._checks import check_trained, registered
from more_scvi.module._adapter import GatedAdapter

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE


@torch.no_grad()
def get_path_weights(self: MoRE) -> pd.DataFrame:
    r"""How the adapters weigh the frozen features against the direct path (and the niche of spatial data).

    Before training a path :math:`p` has a share :math:`s_p` of the variance of the base: the direct path by the
    number of cells it was fitted on; the frozen features by the genes that the backbone knows and by how much of
    them is seen in the data at all. They lose weight in tissue that the backbone was not made for, where they hold
    noise. Training then moves a gate :math:`g` per dimension, which starts at 1, below 2.

    Returns
    -------
    One row per modality and path, with the columns

    - ``start``: share before training; sums to 1 over the paths of a modality;
    - ``gate``, ``least_gate``, ``most_gate``: mean, smallest and largest gate of the path's dimensions;
    - ``weight``: share of the variance that the gated path has in the shared space, over the registered cells that
      have the modality; sums to 1.

    Raises
    ------
    ValueError
        If the model has no data (``load(..., adata=False)``).

    Examples
    --------
    >>> model.get_path_weights()  # doctest: +SKIP
                     start   gate  least_gate  most_gate  weight
    modality path
    rna      frozen  0.214  1.013       0.981      1.062   0.223
             direct  0.786  0.996       0.934      1.071   0.777
    """
    check_trained(self)
    arrays, rows = self.reader.arrays(registered(self, "get_path_weights")), []
    for at, modality in enumerate(self.modalities):
        base, adapter = self.module.base(modality), cast(GatedAdapter, self.module.adapters[modality])
        gate, rotation = adapter.gate().cpu().numpy(), adapter.rotation.cpu().numpy()
        x = arrays.base[arrays.present[:, at], self.module.layout.columns(modality)] * gate
        ends = np.cumsum(base.path_widths)
        columns = [slice(end - width, end) for end, width in zip(ends, base.path_widths, strict=True)]
        variance = np.array([(x[:, c] @ rotation[c]).var(0).sum() for c in columns])
        for name, c, start, weight in zip(
            base.path_names, columns, base.shares.cpu().numpy(), variance / variance.sum(), strict=True
        ):
            rows.append((modality, name, start, gate[c].mean(), gate[c].min(), gate[c].max(), weight))
    table = pd.DataFrame(rows, columns=["modality", "path", "start", "gate", "least_gate", "most_gate", "weight"])
    return table.set_index(["modality", "path"]).astype(float)


def get_layer_weights(self: MoRE) -> pd.Series:
    """How much each layer of the backbone counts in the frozen features.

    Returns
    -------
    Weights that add up to 1, one per block of the backbone's features, in their order (for token models: from the
    embeddings to the last layer). They are equal before training. Where several modalities are read by the
    backbone, those of the first; the others keep equal weights.

    Raises
    ------
    ValueError
        If the backbone gives one feature, so that there is nothing to mix.

    Examples
    --------
    >>> model.get_layer_weights().plot.bar()
    """
    inside = self.module.inside
    if inside is None or inside.mix is None:
        raise ValueError(
            f"backbone={self.init_arguments['backbone']!r} gives one feature per cell, not one per layer: there are"
            " no layer weights. Use a backbone with n_pooled > 1."
        )
    weights = inside.layer_weights().detach().cpu().numpy()
    return pd.Series(weights, index=pd.RangeIndex(len(weights), name="layer"), name="weight")
