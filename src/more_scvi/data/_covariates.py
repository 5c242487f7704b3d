"""Covariates as a numeric design: one-hot categories beside standardised continuous columns."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd

from more_scvi.data._columns import as_batch_array, check_categories, check_continuous

FARTHEST = 1e6
"""Standard deviations from the mean beyond which a value is not believed: its effect would be all there is. Source:
plain value, not tuned."""


@dataclass
class CovariateDesign:
    """Encoding of covariate columns, fitted on one data set and applied to others."""

    levels: dict[str, list[str]] = field(default_factory=dict)  # categorical key -> names of its categories
    moments: dict[str, tuple[float, float]] = field(default_factory=dict)  # continuous key -> mean, standard deviation

    @classmethod
    def fit(cls, obs: pd.DataFrame, categorical: list[str], continuous: list[str]) -> Self:
        """Read levels, means and standard deviations."""
        levels = {key: sorted(set(as_batch_array(obs[key], key))) for key in categorical}
        values = {key: obs[key].to_numpy(dtype=float) for key in continuous}
        return cls(levels, {key: (float(x.mean()), float(x.std()) or 1.0) for key, x in values.items()})  # constant

    @property
    def n_columns(self) -> int:
        """Width of the design."""
        return sum(len(v) for v in self.levels.values()) + len(self.moments)

    def transform(self, obs: pd.DataFrame) -> np.ndarray:
        """Design matrix, (cells, n_columns) float32; a level that was not seen is an empty row."""
        missing = [key for key in [*self.levels, *self.moments] if key not in obs]
        if missing:
            raise KeyError(
                f"adata.obs lacks the covariate columns {missing} the model was set up with; it has "
                f"{list(obs.columns)}. Add them."
            )
        columns = [np.zeros((len(obs), 0))]
        for key, names in self.levels.items():
            so = "Their effect is not removed; train a model on all."
            codes = check_categories(as_batch_array(obs[key], key), names, key, so)
            columns.append(codes[:, None] == np.arange(len(names)))
        for key, (mean, std) in self.moments.items():
            check_continuous(obs[key], key)
            centred = obs[key].to_numpy(dtype=float) - mean  # in float64: float32 cannot hold a date in seconds
            far = np.flatnonzero(np.abs(centred / std) > FARTHEST)
            if len(far):
                raise ValueError(
                    f"adata.obs[{key!r}] is {obs[key].iloc[far[0]]:g} in {obs.index[far[0]]!r}:"
                    f" {len(far)} of {len(obs)} cells lie more than {FARTHEST:g} standard deviations from the mean"
                    f" of the training data ({mean:g}). Give values in the unit of the training data."
                )
            columns.append((centred / std)[:, None])
        return np.concatenate(columns, 1).astype(np.float32)
