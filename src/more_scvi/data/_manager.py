"""The manager of a registered AnnData, without keeping that AnnData alive."""

from __future__ import annotations

import weakref
from typing import Any

from anndata import AnnData
from scvi.data import AnnDataManager


class DataManager(AnnDataManager):
    """As upstream, but the AnnData is freed once neither the user nor a model holds it.

    scvi-tools keeps every manager in a store of the model class, and each manager its AnnData: data would stay in
    memory until the process ends.
    """

    _adata: weakref.ref[AnnData] | None = None

    @property
    def adata(self) -> AnnData | None:
        """The registered AnnData; None before registration and after it is gone."""
        return None if self._adata is None else self._adata()

    @adata.setter
    def adata(self, value: AnnData | None) -> None:
        self._adata = None if value is None else weakref.ref(value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_adata": self.adata}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.adata = state["_adata"]
