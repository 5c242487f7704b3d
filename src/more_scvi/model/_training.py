"""Training: prepare cached arrays once, then run Lightning on them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi.train import SaveCheckpoint, TrainRunner

from more_scvi.data import check_integer, check_mapping
from more_scvi.model._experts import certain_types, fit_experts, niche_helps
from more_scvi.model._inference import INFERENCE_BATCH
from more_scvi.model._self_training import needs_self_training, self_train
from more_scvi.model._state import ModelState
from more_scvi.train import CellDataModule, RestoringCheckpoint, TrainingArrays

DEFAULT_STEPS, MAX_EPOCHS = 800, 100
"""Steps that training takes by default, and most passes over few cells. Source: not recorded."""


class TrainingMixin(ModelState):
    """``train`` and what it needs."""

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int = 256,
        early_stopping: bool = False,
        loss_weights: dict[str, float] | None = None,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Compute the frozen features (once) and train the adapters on them.

        Parameters
        ----------
        max_epochs
            Passes over the data; ``None`` gives about 800 optimiser steps, at least one pass and at most 100.
        accelerator, devices
            As in Lightning; ``"auto"`` uses a GPU if there is one, for features and training.
        train_size, validation_size
            Shares of the cells; the rest is a test set. ``None``: all cells train, none validate.
        shuffle_set_split
            Draw the sets at random; ``False`` takes cells in order.
        batch_size
            Cells per minibatch; batches are drawn evenly.
        early_stopping
            Stop on the validation loss; needs a validation set (10 % if ``train_size`` is not given).
        loss_weights
            λ per term, e.g. ``{"align_batch": 2.0, "masked": 0}``; others keep their default
            (:data:`more_scvi.module.LOSS_WEIGHTS`).
        datasplitter_kwargs
            ``external_indexing``: a list of up to three disjoint index arrays (train, validation, test);
            cells that are not listed are left out.
        plan_kwargs
            Arguments of :class:`more_scvi.train.MoRETrainingPlan`.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, e.g. ``callbacks``, ``precision``, ``early_stopping_patience``.

        Raises
        ------
        ValueError, TypeError
            For sets that are empty or overlap, unknown arguments or terms, or a loss that is not finite.

        Examples
        --------
        >>> model.train(max_epochs=20, loss_weights={"keep": 10.0})
        """
        if max_epochs is not None:
            check_integer("max_epochs", max_epochs)
        plan_kwargs = check_mapping("plan_kwargs", plan_kwargs)
        if loss_weights is not None:
            plan_kwargs["loss_weights"] = loss_weights
        plan = self._training_plan_cls(self.module, **plan_kwargs)
        sets = split_cells(
            self._n_train_cells(),
            0.9 if early_stopping and train_size is None else train_size,
            validation_size,
            shuffle_set_split,
            check_mapping("datasplitter_kwargs", datasplitter_kwargs).get("external_indexing"),
            self.seed,
        )
        _check_data_arguments(datasplitter_kwargs, batch_size, early_stopping, sets)
        trainer_kwargs = {k: list(v) if isinstance(v, list) else v for k, v in trainer_kwargs.items()}
        callbacks = trainer_kwargs.get("callbacks") or []
        callbacks = [RestoringCheckpoint.of(c) if isinstance(c, SaveCheckpoint) else c for c in callbacks]
        if trainer_kwargs.get("enable_checkpointing") and not any(isinstance(c, SaveCheckpoint) for c in callbacks):
            callbacks.append(
                RestoringCheckpoint(monitor=trainer_kwargs.get("checkpointing_monitor", "validation_loss"))
            )
        trainer_kwargs["callbacks"] = callbacks
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
        if len(sets[1]):
            trainer_kwargs.setdefault("check_val_every_n_epoch", 1)
        arrays, self._train_cells = self._training_arrays(accelerator, devices), sets[0]
        was_trained, earlier = self.is_trained_, {k: v.copy() for k, v in (self.history_ or {}).items()}
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*num_workers.*|.*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*number of training batches.*")
            warnings.filterwarnings("ignore", message=".*ambiguous collection.*|.*in eval mode.*")
            torch.manual_seed(self.seed + max(map(len, earlier.values()), default=0))
            self._fit_labels(arrays, sets[0])
            data = CellDataModule(arrays, *sets, batch_size=batch_size)
            if max_epochs is None:
                max_epochs = default_epochs(data.n_train, batch_size)
            self.module.train()  # scvi-tools leaves a trained module in eval mode and Lightning keeps it
            self.is_trained_, self.history_ = False, None
            try:
                TrainRunner(
                    self,
                    training_plan=plan,
                    data_splitter=data,
                    max_epochs=max_epochs,
                    accelerator=accelerator,
                    devices=devices,
                    benchmark=False,
                    early_stopping=early_stopping,
                    **trainer_kwargs,
                )()
            except BaseException:
                self.is_trained_ = was_trained
                self.module.eval()
                raise
            finally:
                self.history_ = _joined(earlier, self.history_ or {})
        self._finish()

    def _finish(self) -> None:
        """Do what follows the last step; checkpoints call it, too, so that they are whole models."""
        self._fit_probes(self._training_arrays(), self._train_cells)
        self._fit_spread(self._training_arrays(), self._train_cells)
        self._fit_imputers(self._training_arrays())

    def _fit_labels(self, arrays: TrainingArrays, cells: np.ndarray) -> None:
        """Before the first step: wide classifier and batch shifts at equal composition, from visible labels."""
        module = self.module
        labels = np.full(len(arrays.labels), -1, dtype=np.int64)
        labels[cells] = arrays.labels[cells]
        if module.classifier is None or bool(module.labels_fitted) or not (labels >= 0).any():
            return
        types = labels
        first = module.base(self.roles[0])
        if first.niche_columns is not None:
            base, sections = arrays.base[:, module.columns(self.roles[0])], arrays.batch
            if not niche_helps(base, first.niche_columns, sections, labels):
                module.drop_niche(arrays.wide)
        if module.wide is not None:
            if len(self.patterns) == 1 and needs_self_training(labels[cells]):
                labels[cells] = self_train(arrays.wide[cells], arrays.base[cells], labels[cells], arrays.batch[cells])
                arrays.taught = np.where(labels >= 0, labels, arrays.labels)
                types = labels
            fit_experts(module, arrays, labels)
            types = certain_types(module.wide, arrays, labels)
        for at, role in enumerate(self.roles):
            rows = np.flatnonzero(arrays.present[:, at])
            columns, batch = module.columns(role), arrays.batch[rows]
            shift = module.base(role).fit_composition(arrays.base[rows, columns], batch, types[rows])[batch]
            arrays.base[rows, columns] -= shift
            if arrays.views is not None:
                arrays.views[rows, :, columns] -= shift[:, None]
        module.labels_fitted.fill_(True)

    def _fit_probes(self, arrays: TrainingArrays, cells: np.ndarray) -> None:
        """After the last step: closed-form classifiers on the embedding of visible labels, beside the trained head."""
        labels = arrays.training_labels
        visible = cells[labels[cells] >= 0]
        probe, gaussian = self.module.probe, self.module.gaussian
        if gaussian is None or not len(visible):
            return
        z = self._forward(*self._inputs(None), visible, INFERENCE_BATCH, lambda out: out["z_labels"])
        if probe is not None:
            probe.fit(z, labels[visible])
        gaussian.fit(z, labels[visible], arrays.present[visible])

    def _fit_spread(self, arrays: TrainingArrays, cells: np.ndarray) -> None:
        """After the last step: centres and spreads per type and batch, by visible labels and predictions."""
        if self.module.spread is None:
            return
        rows = np.arange(len(arrays.base))

        def read(out: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.cat([out["z"], out["log_probs"].argmax(1, keepdim=True)], 1)

        z = self._forward(*self._inputs(None), rows, INFERENCE_BATCH, read)
        types = z[:, -1].astype(np.int64)
        labels = arrays.training_labels
        visible = cells[labels[cells] >= 0]
        types[visible] = labels[visible]
        device = self.module.spread.scale.device
        z, types, domain = (
            torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (z[:, :-1], types, arrays.domain)
        )
        self.module.spread.fit(z, types, domain)

    def _n_train_cells(self) -> int:
        if self.adata is None:
            raise ValueError(
                "This model was loaded without data (adata=False) and cannot be trained; load it with "
                "MoRE.load(dir, adata=adata)."
            )
        return self.adata.n_obs


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Passes over the data that give about 800 optimiser steps: at least 1, at most 100."""
    return min(MAX_EPOCHS, max(1, round(DEFAULT_STEPS * min(batch_size, n_cells) / n_cells)))


def split_cells(
    n: int,
    train_size: float | None,
    validation_size: float | None,
    shuffle: bool,
    given: list[np.ndarray] | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint train, validation and test indices."""
    if given is not None:
        sets = [np.asarray(part, dtype=np.int64).ravel() for part in given]
        sets += [np.array([], dtype=np.int64)] * (3 - len(sets))
        joined = np.concatenate(sets)
        if len(sets) != 3 or not len(sets[0]) or len(np.unique(joined)) != len(joined):
            raise ValueError(
                "external_indexing must be up to three disjoint index arrays (train, validation, test) with at least"
                f" one training cell; got sizes {[len(s) for s in sets]} with {len(joined) - len(np.unique(joined))}"
                " repeats."
            )
        if joined.min() < 0 or joined.max() >= n:
            raise ValueError(
                f"external_indexing holds indices from {joined.min()} to {joined.max()}; legal: 0 to {n - 1}."
            )
        return sets[0], sets[1], sets[2]
    train_size = 1.0 if train_size is None else train_size
    validation_size = 1.0 - train_size if validation_size is None else validation_size
    for name, value in (("train_size", train_size), ("validation_size", validation_size)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; give a share between 0 and 1.")
    if train_size == 0 or train_size + validation_size > 1 + 1e-9:
        raise ValueError(
            f"train_size {train_size} and validation_size {validation_size} must have a positive train_size and a sum"
            " of at most 1."
        )
    order = np.random.default_rng(seed).permutation(n) if shuffle else np.arange(n)
    n_train, n_val = max(1, int(np.ceil(train_size * n))), int(np.floor(validation_size * n))
    return order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :]


def _check_data_arguments(kwargs: dict[str, Any] | None, batch_size: int, early_stopping: bool, sets) -> None:
    unknown = set(kwargs or {}) - {"external_indexing"}
    if unknown:
        raise TypeError(f"datasplitter_kwargs has no argument {sorted(unknown)}; legal: external_indexing.")
    check_integer("batch_size", batch_size, 2)
    if early_stopping and not len(sets[1]):
        raise ValueError(
            "early_stopping=True needs validation cells; lower train_size (e.g. 0.9) or raise validation_size."
        )


def _joined(earlier: dict[str, pd.DataFrame], new: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Histories of several rounds of training, one after the other; epochs are numbered on."""
    start = max((int(v.index.max()) + 1 for v in earlier.values() if len(v)), default=0)
    moved = {k: v.set_axis(v.index + start).rename_axis(v.index.name) for k, v in new.items()}
    return {k: pd.concat([d[k] for d in (earlier, moved) if k in d]) for k in dict.fromkeys([*earlier, *moved])}
