"""What scvi-tools records about a registered AnnData: shown, amended, and dropped with the data."""

import weakref
from typing import Any, ClassVar
from uuid import uuid4

import pandas as pd
import rich.pretty  # noqa: F401 scvi-tools prints with it and does not import it
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from more_scvi._compat import SCVI_UUID_KEY


def _forget(managers: dict[str, AnnDataManager], key: str) -> None:
    """Drop a manager whose data are gone, not one that took its place."""
    if key in managers and managers[key].adata is None:
        del managers[key]


class RegistryMixin(BaseModelClass):
    """Registry of a model, for a model of one AnnData."""

    _frames: ClassVar[dict[int, AnnData]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """All but the trainer, with the registered data; for pickle, copy and whoever sends models to processes."""
        file = getattr(self._adata, "file", None)
        if isinstance(self._adata, MuData) and getattr(file, "_adata_ref", object)() is None:
            file._adata_ref = weakref.ref(self._adata)  # type: ignore[union-attr]  # mudata's points at an AnnData that is gone: not to be pickled
        if self._adata is not None:
            self._recorded_columns()  # a copy is registered anew, but holds the columns of the latest setup
        return {**self.__dict__, "trainer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.id = str(uuid4())  # scvi-tools keeps managers by it: a copy must not share those of the original
        manager = self._adata_manager
        if manager is None:
            return
        if isinstance(self._adata, MuData):
            self._keep_frame(self._adata, manager.adata)
        self.register_manager(manager)
        self._register_manager_for_instance(manager)

    @classmethod
    def _keep_frame(cls, mdata: MuData, frame: AnnData) -> None:
        """Remember the columns that were registered for a MuData, while it lives; nothing is written into it."""
        key = id(mdata)
        if key not in cls._frames:  # one finalizer per object, however often it is set up
            weakref.finalize(mdata, cls._frames.pop, key, None)
        cls._frames[key] = frame

    @classmethod
    def _frame_of(cls, data: AnnData | MuData) -> AnnData:
        """What scvi-tools' managers know: an AnnData itself, or the registered columns of a MuData."""
        if not isinstance(data, MuData):
            return data
        if id(data) not in cls._frames:
            raise ValueError(
                "Please set up your MuData with MoRE.setup_mudata first: this object was not registered (a copy has to"
                " be registered, too)."
            )
        return cls._frames[id(data)]

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: AnnData | MuData, required: bool = False) -> AnnDataManager | None:
        return super()._get_most_recent_anndata_manager(cls._frame_of(adata), required)

    def get_anndata_manager(self, adata: AnnData | MuData, required: bool = False) -> AnnDataManager | None:
        """Manager of a registered AnnData or MuData; None, or an error if ``required``, for others."""
        return super().get_anndata_manager(self._frame_of(adata), required)

    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None:
        """Record the manager of an AnnData until that AnnData is gone."""
        registered, known = adata_manager.adata, cls._setup_adata_manager_store
        key = registered.uns[SCVI_UUID_KEY]
        if key in known and known[key].adata is not registered:  # a copy must not take the place of what it was made of
            key = str(uuid4())
        registered.uns[SCVI_UUID_KEY] = adata_manager.registry[SCVI_UUID_KEY] = key
        super().register_manager(adata_manager)
        weakref.finalize(registered, _forget, known, key)

    def _hold_frame(self) -> None:
        """Keep what setup recorded, which another setup of the same object replaces."""
        self._frame, self._replaced = self._adata_manager.adata, False
        self._recorded = self._frame.obs.filter(regex="^_scvi_(batch|labels)$").copy()

    def _recorded_columns(self) -> pd.DataFrame:
        """Codes of batches and labels that the setup of this model recorded, by cell."""
        self._replaced |= self._get_most_recent_anndata_manager(self._adata) is not self._adata_manager
        return self._recorded if self._replaced else self._frame.obs

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        new = self.id not in self._per_instance_manager_store
        super()._register_manager_for_instance(adata_manager)
        if new:
            weakref.finalize(self, self._per_instance_manager_store.pop, self.id, None)

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """Print what was registered: setup arguments, sizes, columns and categories.

        Parameters
        ----------
        hide_state_registries
            Leave the categories out.
        """
        if self.adata_manager is None:  # loaded without data
            self.view_setup_method_args()
        else:
            self.adata_manager.view_registry(hide_state_registries=hide_state_registries)

    def update_setup_method_args(self, setup_method_args: dict[str, Any]) -> None:
        """Amend the setup arguments in the registry.

        Parameters
        ----------
        setup_method_args
            Names and new values.
        """
        self.registry_["setup_args"].update(setup_method_args)
