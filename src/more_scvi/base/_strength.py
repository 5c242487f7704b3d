r"""How much batches are made alike: one number per batch key.

Several keys (``["project", "sample"]``) make one batch of every combination of their values that occurs. What differs
between two of them is removed with the strength of the weakest key in which they differ. An offset per batch is taken
apart into a part of each key, in the order given: the mean over the batches of a level, then that of what is left; the
last key gets the rest. Comparisons (clusters that batches share, alignment) are a sum of terms: with strengths
:math:`s_1 \le s_2 \le \dots` the batches are compared among all with weight :math:`s_1`, and with weight
:math:`s_j - s_{j-1}` among those of equal levels of the keys before :math:`j`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from more_scvi.data._arguments import check_number, check_option


@dataclass(frozen=True, eq=False)
class Strength:
    """Strengths of batch keys, and the levels of what they tell apart.

    Attributes
    ----------
    values
        Of each key, >= 0: 0 leaves batches where they were measured, 1 is the usual, more aligns more.
    levels
        Code of the level of each batch in each key, int (batches, keys).
    """

    values: tuple[float, ...]
    levels: np.ndarray

    @classmethod
    def usual(cls, n: int) -> Self:
        """That of ``n`` batches of one key."""
        return cls((1.0,), np.arange(n)[:, None])

    def within(self, codes: np.ndarray) -> Self:
        """That of parts of batches: ``codes``, (parts,), one level per kind of part. Kinds are always made alike."""
        return type(self)((*self.values, max(1.0, *self.values)), np.column_stack([self.levels, codes]))

    @property
    def least(self) -> float:
        """That of the weakest key, at most 1."""
        return min(1.0, *self.values)

    def part(self, offset: np.ndarray) -> np.ndarray:
        """What is removed of the offset of each batch, (batches, columns); batches of offset 0 take no part."""
        if self.least == 1:
            return offset
        known = np.any(offset != 0, axis=1)
        rest, out = offset[known], np.zeros_like(offset)
        for at, (value, codes) in enumerate(zip(self.values, self.levels[known].T, strict=True), 1):
            member = (codes[:, None] == codes).astype(offset.dtype)
            of_key = rest if at == len(self.values) else member @ rest / member.sum(1, keepdims=True)
            out[known] += min(value, 1.0) * of_key
            rest = rest - of_key
        return out

    def terms(self) -> list[tuple[float, np.ndarray]]:
        """Weight of each comparison, and the group of each batch, (batches,), within which it is made."""
        out, done, group = [], 0.0, np.zeros(len(self.levels), np.int64)
        for at in np.argsort(self.values, kind="stable"):
            if self.values[at] > done:
                out.append((self.values[at] - done, group))
            done = self.values[at]
            group = np.unique(np.column_stack([group, self.levels[:, at]]), axis=0, return_inverse=True)[1].reshape(-1)
        return out


def check_strength(strength: Any, keys: Sequence[str]) -> tuple[float, ...]:
    """Strength of each batch key; TypeError or ValueError for what is no number >= 0 or names no key."""
    if not isinstance(strength, Mapping):
        return (check_number("strength", strength, 0.0),) * max(len(keys), 1)
    if not keys:
        raise ValueError(
            f"strength={dict(strength)!r}, but no batch_key was given at setup; name the columns there, or give a"
            " number."
        )
    for key in strength:
        check_option("a key of strength", key, keys)
    return tuple(check_number(f"strength[{key!r}]", strength.get(key, 1.0), 0.0) for key in keys)
