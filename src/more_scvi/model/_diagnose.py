"""``diagnose``: what can be wrong with a trained model, measured on its data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi.data import LabelsField, as_batch_array, as_label_array, check_option
from more_scvi.diagnosis import CHECKS, Diagnosis, Evidence, representative
from more_scvi.model._inference import INFERENCE_BATCH
from more_scvi.model._state import ModelState

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class DiagnoseMixin(ModelState):
    """Checks of a trained model."""

    def diagnose(
        self, adata: AnnData | MuData | None = None, *, labels: str | Sequence[str] | None = None
    ) -> Diagnosis:
        """Look for what commonly goes wrong, and say which argument to change.

        Each check has a value, a limit and, where it fires, a remedy. At most 5,000 cells are looked at; nothing is
        written.

        =============================  ================================================  ====================
        check                          value                                             warning
        =============================  ================================================  ====================
        ``batches_separate``           mixing of batches within types; without types,    below 0.35
                                       of the best-mixed quarter of the cells            (without: 0.25)
        ``types_collapse``             correlation of distances within types with        below 0.6
                                       those of the data
        ``rare_types_lost``            recall of the worst rare type by its neighbours   below 0.5
        ``labels_not_learned``         loss of the classifier on training cells at the   above 0.5
                                       end, in units of chance
        ``overfitting``                rise of the validation loss of the classifier     above 0.2
                                       after its best epoch, in units of chance
        ``modality_ignored``           share of the embedding that hangs on the least    below 0.002
                                       heard modality
        ``modality_uninformative``     share of a modality that the others predict       below 0.02
        ``low_vocabulary_overlap``     share of genes that the backbone knows            below 0.3
        ``batch_and_type_confounded``  association of batch and type, Cramér's V         above 0.75
        =============================  ================================================  ====================

        Parameters
        ----------
        adata
            ``None``: the registered data. Otherwise other cells, as in :meth:`get_latent_representation`.
        labels
            Types to check with, instead of those registered: a column of ``obs``, or one value per cell; missing ones
            and ``unlabeled_category`` are not labelled. ``None``: visible labels, and predictions for all other cells.

        Returns
        -------
        :class:`more_scvi.diagnosis.Diagnosis` with ``table``, ``ok``, ``warnings`` and ``to_dict()``. A check that the
        data or the training do not allow (one batch, no validation cells) is ``"not checked"``.

        Raises
        ------
        RuntimeError
            Before training.
        ValueError, KeyError, TypeError
            For other data that do not fit the model, as in :meth:`get_latent_representation`; for ``labels`` that are
            no column of ``obs`` or of another length.

        Examples
        --------
        >>> result = model.diagnose()
        >>> result.warnings[["check", "message", "remedy"]]
        """
        self._check_if_trained(warn=False)
        inputs = self._inputs(adata)
        batches, visible = self._what_is_known(adata, labels)
        rows = representative(visible)
        if self.module.classifier is None and (visible != "").any():
            rows = rows[visible[rows] != ""]  # nothing predicts the other types
        evidence = self._evidence(inputs, batches, visible, rows)
        return Diagnosis(tuple(check(evidence) for check in CHECKS), n_cells=len(visible), n_sampled=len(rows))

    def _what_is_known(
        self, data: AnnData | MuData | None, labels: str | Sequence[str] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Batches and visible labels of all cells as text, ``""`` = no label."""
        args = self._setup_args
        registered = data is None or data is self.adata
        data = self.adata if data is None else data
        assert data is not None  # the inputs were read
        if registered:
            arrays = self._training_arrays()
            batches, known = self.batches[arrays.batch], np.append(self.labels.astype(object), "")[arrays.labels]
        else:
            obs = self._cells_of(data).obs
            key, label_key = args["batch_key"], args.get("labels_key")
            batches = as_batch_array(obs[key], key) if key in obs else np.full(len(obs), "")
            known = self._as_known(obs[label_key]) if len(self.labels) and label_key in obs else np.full(len(obs), "")
        visible = known if labels is None else self._as_known(_given(labels, data.obs))
        return batches.astype(str), visible.astype(str)

    def _as_known(self, column: pd.Series) -> np.ndarray:
        """Labels of a column as text, ``""`` where missing or marked as unlabelled."""
        unknown = LabelsField("labels", self._setup_args["unlabeled_category"]).unlabeled_category
        visible = as_label_array(column, unknown)
        return np.where(visible == unknown, "", visible)

    def _evidence(self, inputs: Inputs, batches: np.ndarray, visible: np.ndarray, rows: np.ndarray) -> Evidence:
        """What the checks read, for some of the cells."""
        base, present, _, _ = inputs
        module, n_latent = self.module, self.module.n_latent
        present = present[rows]

        def read(out: dict[str, torch.Tensor]) -> torch.Tensor:
            p = out["log_probs"]
            return out["embedding"] if p is None else torch.cat([out["embedding"], p.exp()], 1)

        out = self._forward(*inputs, rows, INFERENCE_BATCH, read)
        z, probabilities = out[:, :n_latent], out[:, n_latent:]
        labels, types = visible[rows], None
        if module.classifier is not None:
            guess = self.labels.astype(str)[probabilities.argmax(1)]
            types = np.where(labels != "", labels, guess)
        elif (labels != "").any():
            types = labels
        kept = module.kept.cpu().numpy()
        scaled = base[rows] * kept
        patterns = (present @ (1 << np.arange(len(self.roles)))).astype(str)
        domains = np.char.add(np.char.add(batches[rows], "/"), patterns)
        reads_genes = self.backbone is not None and self.backbone.vocabulary is not None
        return Evidence(
            z=z,
            direct=scaled[:, kept > 0] if (kept > 0).any() else base[rows],
            batches=batches[rows],
            domains=domains,
            labels=labels,
            types=types,
            views={role: scaled[:, module.columns(role)] for role in self.roles},
            present={role: present[:, at] for at, role in enumerate(self.roles)},
            effects=self._effects(inputs, rows, domains),
            # a modality without any gene is not read by the backbone, and is not meant to be
            overlaps={r: self.overlaps[r] for r in self.roles if len(self.gene_names[r])} if reads_genes else {},
            chance=self._chance(),
            history=self.history_ or {},
        )

    def _chance(self) -> float:
        """Entropy of the labels that the model was trained on; of even ones if it was loaded without data."""
        if self.adata is None:
            return float(np.log(max(len(self.labels), 1)))
        codes = self._codes(self._cells_of(self.adata))[1]
        counts = np.unique(codes[codes >= 0], return_counts=True)[1]
        shares = counts / max(counts.sum(), 1)
        return float(-(shares * np.log(shares)).sum())

    def _effects(self, inputs: Inputs, rows: np.ndarray, domains: np.ndarray) -> dict[str, float]:
        """Share of the embedding's variance within domains that hangs on each modality, by shuffling it there."""
        base, present, wide, domain = (array[rows] for array in inputs)
        if len(self.roles) == 1:
            return {}
        rng = np.random.default_rng(0)
        effects = {}
        for at, role in enumerate(self.roles):
            several = present[:, at] & (present.sum(1) > 1)
            groups = [np.flatnonzero(several & (domains == name)) for name in np.unique(domains[several])]
            groups = [group for group in groups if len(group) > 1]
            if not groups:
                continue
            shuffled, columns = base.copy(), self.module.columns(role)
            for group in groups:
                shuffled[group, columns] = base[rng.permutation(group), columns]
            cells = np.concatenate(groups)
            z, moved = (
                self._forward(x, present, wide, domain, cells, INFERENCE_BATCH, lambda out: out["z"]).astype(float)
                for x in (base, shuffled)
            )
            start, total = 0, 0.0
            for group in groups:
                part = z[start : start + len(group)]
                total, start = total + np.square(part - part.mean(0)).sum(), start + len(group)
            effects[role] = float(np.square(moved - z).sum() / (2.0 * max(total, 1e-12)))
        return effects


def _given(labels: str | Sequence[str], obs: pd.DataFrame) -> pd.Series:
    """Labels that a user gives, one per row of ``obs``."""
    if isinstance(labels, str):
        check_option("labels", labels, [str(name) for name in obs.columns if not str(name).startswith("_scvi")])
        return obs[labels]
    if len(labels) != len(obs):
        raise ValueError(
            f"labels has {len(labels)} values for {len(obs)} cells; give one per cell, or a column of obs."
        )
    if isinstance(labels, pd.Series) and not labels.index.equals(obs.index):
        if not labels.index.is_unique or not obs.index.isin(labels.index).all():
            raise ValueError(
                "labels is a Series whose index is not the cell names; give labels.to_numpy() if in order."
            )
        return labels.loc[obs.index]
    return pd.Series(labels, index=obs.index, name="labels")
