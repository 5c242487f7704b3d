"""Saving and loading: adapters as safetensors beside a JSON card; never a pickle, never the backbone."""

import inspect
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from mudata import MuData, read_h5mu
from safetensors.torch import save
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from more_scvi._compat import parse_device_args
from more_scvi._files import check_regular, read_json
from more_scvi._saved import check_folder, check_tensors, file_of, read_saved, unpack, write_saved
from more_scvi.data._batches import batch_values
from more_scvi.model._reference_map import ReferenceMap
from more_scvi.model._setup import RESOLVED

logger = logging.getLogger("more_scvi")

WEIGHTS, CARD, DATA, MUDATA = "adapters.safetensors", "model.json", "adata.h5ad", "mdata.h5mu"
FORMAT = 8
_REMEDY = "It was truncated, edited or not written by MoRE.save; give a folder as it was saved."
_ADDED_ARGUMENTS = {
    **{"adapter": "output", "adapter_layers": 2, "adapter_rank": 8, "freeze_backbone": True},
    "strength": 1.0,
}
"""Arguments that cards of earlier versions lack, and what these versions did."""


class SaveLoadMixin(BaseModelClass):
    """``save`` and ``load`` of a model."""

    def save(
        self,
        dir_path: str | os.PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save adapters and setup; the backbone is only named, with its fingerprint.

        Parameters
        ----------
        dir_path
            Folder; created if needed.
        prefix
            Put before the file names.
        overwrite
            Replace files of an earlier save.
        save_anndata
            Also write the registered AnnData or MuData.
        **anndata_write_kwargs
            Arguments of :meth:`anndata.AnnData.write_h5ad` or :meth:`mudata.MuData.write_h5mu`.

        Raises
        ------
        ValueError
            If the files exist and ``overwrite`` is False; nothing is written then.

        Notes
        -----
        Writes ``adapters.safetensors`` and ``model.json`` (and ``adata.h5ad`` or ``mdata.h5mu``). Over an earlier save
        files get their second name (``adapters-2.safetensors``) and the first again after that; the card, replaced
        last, says which belong to it: whatever interrupts it, the folder holds the old model or the new one. The size
        does not depend on the number of cells. Of layers that adapters enter only the adapters are written; with
        ``freeze_backbone=False`` the tuned layers, which have the size of the backbone's. ``cache_dir`` is not saved.
        """
        card, prefix = _card_path(dir_path, prefix)
        check_folder(card.parent, (card.name, f"{prefix}{WEIGHTS}"), overwrite)
        if save_anndata and self.adata is None:
            raise ValueError("save_anndata=True, but the model was loaded without data; save without it.")
        state = {k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
        state |= {} if self._map is None else self._map.tensors()
        files: dict[str, bytes | Callable[[Path], None]] = {WEIGHTS: save(state)}
        if save_anndata and self.schema.is_mudata:
            files[MUDATA] = lambda path: self.adata.write_h5mu(path, **anndata_write_kwargs)
        elif save_anndata:
            files[DATA] = lambda path: self.adata.write_h5ad(path, **anndata_write_kwargs)
        write_saved(card, _plain(self._card()), files, (WEIGHTS, DATA, MUDATA), prefix)
        megabytes = (len(files[WEIGHTS]) + card.stat().st_size) / 1e6  # type: ignore[arg-type]
        logger.info(
            "%s: %.1f MB, %s.", card.parent, megabytes, "beside the data" if save_anndata else "without any cell"
        )

    def _card(self) -> dict[str, Any]:
        history = {} if self.history_ is None else self.history_
        return {
            "format": FORMAT,
            "class": type(self).__name__,
            "versions": {name: version(name) for name in ("more-scvi", "scvi-tools", "torch")},
            "is_trained": bool(self.is_trained_),
            "arguments": {k: v for k, v in self.init_arguments.items() if k != "cache_dir"},  # a place on this machine
            "backbone_fingerprint": None if self.backbone is None else self.backbone.fingerprint(),
            "n_features": None if self.backbone is None else self.backbone.n_features,  # loading may see no obsm
            "registry": self.registry_,
            "history": {k: [v.index.tolist(), v.iloc[:, 0].astype(float).tolist()] for k, v in history.items()},
        }

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: AnnData | MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ):
        """Load a saved model.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        adata
            AnnData or MuData to attach (it is set up as the original was); ``None`` reads the saved data;
            ``False`` loads without data, for inference on other data.
        accelerator, device
            Where to put the adapters.
        prefix
            As given to :meth:`save`.

        Returns
        -------
        The model, with the embedding and predictions it had.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If a file is truncated, changed or not what :meth:`save` writes, the class differs, or the backbone found
            now is not the one the model was trained with.

        Examples
        --------
        >>> model = more.MoRE.load("my_model/", adata)
        """
        path, prefix = _card_path(dir_path, prefix)
        card, tensors = _read(path, prefix, cls.__name__)
        registry, arguments = card["registry"], _ADDED_ARGUMENTS | card["arguments"] | {"cache_dir": None}
        unknown = set(arguments) ^ set(inspect.signature(cls).parameters) - {"adata", "registry"}
        if unknown:
            raise ValueError(f"{path} lacks or adds the arguments {sorted(unknown)}; it was edited.")
        if arguments["backbone"] == "precomputed":
            arguments["backbone_kwargs"] = {**arguments["backbone_kwargs"], "n_features": card["n_features"]}
        if adata is None:
            name, read = (MUDATA, read_h5mu) if "modalities" in registry["setup_args"] else (DATA, read_h5ad)
            data = file_of(path, card, name, prefix)
            if data is None or not data.exists():
                raise ValueError(
                    f"{path.parent} holds no saved data ({name}); give adata=..., or adata=False to load the model"
                    " without data."
                )
            adata = read(check_regular(data))
        try:
            model = cls(registry=registry, **arguments)  # an edited card may ask for anything
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, MemoryError, OverflowError) as error:
            raise ValueError(
                f"{path} makes no model ({error}); it was edited, or what it names is not here."
            ) from error
        model._check_backbone(card["backbone_fingerprint"], path.parent)
        model._fill(tensors, path)
        if adata is not False:  # last, so that a damaged folder leaves the AnnData as it was
            model._attach(adata)
        model.is_trained_ = card["is_trained"]
        if card["history"]:
            model.history_ = {
                k: pd.DataFrame({k: values}, index=pd.Index(index, name="epoch"))
                for k, (index, values) in card["history"].items()
            }
        model.module.eval()
        _, _, where = parse_device_args(
            accelerator=accelerator, devices=device, return_device="torch", validate_single_device=True
        )
        model.to_device(where)
        return model

    def _attach(self, adata: AnnData | MuData) -> None:
        """Set up ``adata`` as the original was and make it the model's data; sizes stay those of the original."""
        if self.schema.is_mudata != isinstance(adata, MuData):
            wanted = "MuData" if self.schema.is_mudata else "AnnData"
            raise TypeError(
                f"The model was trained on a {wanted}, but adata is a {type(adata).__name__}; give a {wanted}."
            )
        self.schema.check_complete(adata)
        obs = self.schema.cells(adata).obs
        key = self.schema.setup["batch_key"]
        values = batch_values(obs, key)
        new = [] if values is None else sorted(set(values) - set(self.schema.batches))
        if new:
            raise ValueError(
                f"adata.obs[{key!r}] holds batches the model was not trained on: {', '.join(map(repr, new[:5]))}."
                " Embed new batches with model = MoRE.load(dir, adata=False);"
                " model.get_latent_representation(adata)."
            )
        self.schema.label_codes(adata, say=True)
        args = {k: v for k, v in self.schema.setup.items() if k not in RESOLVED}
        args |= self.schema.setup_of(adata)
        setup = self.setup_mudata if self.schema.is_mudata else self.setup_anndata
        setup(adata, source_registry=self.registry_, **args)
        self._adata, self._adata_manager = adata, self._get_most_recent_anndata_manager(adata, required=True)
        self._register_manager_for_instance(self._adata_manager)
        self._hold_frame()
        self.reader.forget()

    def load_weights(self, dir_path: str | os.PathLike, prefix: str | None = None) -> None:
        """Put the adapters of a saved folder into this model, in place.

        Parameters
        ----------
        dir_path, prefix
            As given to :meth:`save`.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing, damaged, or of a model with other sizes.
        """
        path, prefix = _card_path(dir_path, prefix)
        self._fill(_read(path, prefix, None)[1], path)

    def _fill(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        """Load strictly; classes without cells have weights of minus infinity."""
        remedy, file = f"It and {path.name} must come from one save.", path.with_name(WEIGHTS)
        found = ReferenceMap.take(tensors, self.module.n_latent, len(self.labels), file, remedy)
        check_tensors(tensors, self.module.state_dict(), file, remedy, finite=False)
        self.module.load_state_dict(tensors)
        self._map = found

    def _check_backbone(self, expected: str | None, folder: Path) -> None:
        found = None if self.backbone is None else self.backbone.fingerprint()
        if found != expected:
            raise ValueError(
                f"{folder} was trained on backbone {self.init_arguments['backbone']!r} with fingerprint {expected},"
                f" but the one found now has {found}. Install the more-scvi version named in its {CARD}, or give the"
                " original weights."
            )

    @staticmethod
    def load_registry(dir_path: str | os.PathLike, prefix: str | None = None) -> dict[str, Any]:
        """Read the registry (setup arguments, categories, genes) of a saved model without loading it."""
        return _read_card(_card_path(dir_path, prefix)[0], None)["registry"]

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Refuse: scvi-tools' old saves are pickles, which run code when they are read, and none hold a MoRE."""
        raise NotImplementedError(
            "MoRE has no legacy saves to convert, and reading those of scvi-tools would run code from the file. Load"
            " folders of MoRE.save with MoRE.load."
        )

    @classmethod
    def view_setup_args(cls, dir_path: str | os.PathLike, prefix: str | None = None) -> None:
        """Print the setup arguments of a saved model without loading it."""
        AnnDataManager.view_setup_method_args(cls.load_registry(dir_path, prefix))


def _card_path(dir_path: str | os.PathLike, prefix: str | None) -> tuple[Path, str]:
    """Path of the card, and the prefix of the other files."""
    prefix = prefix or ""
    if not isinstance(prefix, str) or any(mark in prefix for mark in "/\\\0"):
        raise ValueError(
            f"prefix={prefix!r} is put before the names of files; give text without '/', and the folder as dir_path."
        )
    return Path(dir_path) / f"{prefix}{CARD}", prefix


def _plain(value: Any) -> Any:
    """Values as JSON holds them: arrays become marked lists, NumPy scalars Python's, paths text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return {"__array__": [_plain(v) for v in value.tolist()]}
    if isinstance(value, list | tuple | set):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{value!r} ({type(value).__name__}) among the arguments of the model or of setup_anndata cannot be saved;"
        " give text, numbers, lists or dicts, e.g. the path of a file instead of its content."
    )


def _restore(value: dict[str, Any]) -> Any:
    return np.array(value["__array__"], dtype=object) if set(value) == {"__array__"} else value


_CARD_KEYS = "format class is_trained arguments backbone_fingerprint n_features registry history".split()


def _read_card(path: Path, class_name: str | None) -> dict[str, Any]:
    if not path.exists():
        folder = path.parent
        where = f"it holds {sorted(p.name for p in folder.iterdir())[:8]}" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"{path} not found ({where}); give a folder written by MoRE.save.")
    card = read_json(path, _REMEDY, hook=_restore)
    missing = [key for key in _CARD_KEYS if not isinstance(card, dict) or key not in card]
    if missing:
        raise ValueError(f"{path} lacks the entries {missing}; it was not written by MoRE.save, or was edited.")
    wrong = [key for key in ("arguments", "registry", "history") if not isinstance(card[key], dict)]
    wrong += [key for key in ("setup_args", "field_registries") if not wrong and key not in card["registry"]]
    if wrong:
        raise ValueError(f"{path} has no proper {', '.join(wrong)}; it was edited.")
    if card["format"] != FORMAT:
        older = isinstance(card["format"], int) and card["format"] < FORMAT
        step = "Make and train the model anew." if older else "Install a newer more-scvi."
        raise ValueError(f"{path} has format {card['format']!r}; this version reads format {FORMAT}. {step}")
    if class_name is not None and card["class"] != class_name:
        raise ValueError(
            f"{path} was written by the class {card['class']!r}, not {class_name!r}; load it with that class."
        )
    return card


def _read(path: Path, prefix: str, class_name: str | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Card and tensors of one save."""
    card, files = read_saved(path, lambda path: _read_card(path, class_name), (WEIGHTS,), _REMEDY, prefix)
    return card, unpack(files[WEIGHTS], path.with_name(WEIGHTS), _REMEDY)
