"""``train``: fit what is fitted in closed form, run Lightning on cached arrays, finish; or leave all as it was."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi.train import SaveCheckpoint, TrainRunner

from more_scvi._compat import SimpleLogger, parse_device_args
from more_scvi._progress import without_bars
from more_scvi._threads import one_thread
from more_scvi.data._arguments import check_integer, check_mapping, listing, nearest, warn
from more_scvi.model._fit import finish, make_training_set
from more_scvi.model._forward import registered
from more_scvi.model._new_batches import count_labelled, fit_new_batches, forget_compositions, weigh_new_batches
from more_scvi.module._objective import needs_views
from more_scvi.train._callbacks import RestoringCheckpoint
from more_scvi.train._data import CellDataModule
from more_scvi.train._split import default_epochs, split_cells

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

SILENT = ("enable_progress_bar", "progress_bar_refresh_rate", "enable_model_summary", "logger", "simple_progress_bar")
"""Arguments of the trainer that say how much is shown."""


def train(
    self: MoRE,
    max_epochs: int | None = None,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    train_size: float | None = None,
    validation_size: float | None = None,
    shuffle_set_split: bool = True,
    batch_size: int = 256,
    early_stopping: bool = False,
    loss_weights: dict[str, float] | str | None = None,
    datasplitter_kwargs: dict[str, Any] | None = None,
    plan_kwargs: dict[str, Any] | None = None,
    **trainer_kwargs: Any,
) -> None:
    """Compute the frozen features (once) and train the adapters on them.

    Parameters
    ----------
    max_epochs
        Passes over the data; ``None`` gives about 800 optimiser steps, at least one pass and at most 100. 0: only what
        is fitted in closed form; the embedding is the linear base.
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
        (:data:`more_scvi.module.LOSS_WEIGHTS`). Or an objective by name: ``"fast"`` leaves out what reads masked
        views, so that every cell passes the backbone once; ``"paper"`` has the description's terms alone, each with
        λ = 1; ``"full"`` is the default.
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
        For sets that are empty or overlap, unknown arguments or terms, data that are not what they were at setup, or a
        loss that is not finite. The model is then as it was before; after a
        :class:`scvi.train.SaveCheckpoint` with ``check_nan_gradients`` it is that of the best checkpoint.
    KeyboardInterrupt
        Of the user; what was learned until then is kept, and the model can be used.

    Notes
    -----
    Of a query that was added to a reference (:meth:`load_query_data`) only the refinement of its new batches is fitted,
    in ``max_epochs`` steps on all cells (100 by default), and kept if it helps cells that are held out; and what new
    batches without labels hold is found, by which :meth:`predict` weighs their answers.

    Labels and linear base are read anew: what was labelled since the last training is learned from. Small networks are
    trained on one thread, which is as fast and does not suffer from other processes on the same cores.

    Examples
    --------
    >>> model.train(max_epochs=20, loss_weights={"keep": 10.0})
    """
    if max_epochs is not None:
        max_epochs = check_integer("max_epochs", max_epochs, 0)
    data = registered(self, "train")
    plan_kwargs = check_mapping("plan_kwargs", plan_kwargs)
    if loss_weights is not None:
        plan_kwargs["loss_weights"] = loss_weights
    plan = self._training_plan_cls(self.module, **plan_kwargs)  # first, as it refuses misspelt arguments
    train_size = 0.9 if early_stopping and train_size is None else train_size
    split_kwargs = check_mapping("datasplitter_kwargs", datasplitter_kwargs)
    sets = split_cells(data.n_obs, train_size, validation_size, shuffle_set_split, split_kwargs, self.seed)
    batch_size = check_integer("batch_size", batch_size, 2)
    if early_stopping and not len(sets[1]):
        raise ValueError(
            "early_stopping=True needs validation cells; lower train_size (e.g. 0.9) or raise validation_size."
        )
    self.schema.check_unchanged(data, self._recorded_columns())
    _, _, device = parse_device_args(accelerator=accelerator, devices=devices, return_device="torch")
    if str(device) == "cpu" and isinstance(devices, int) and devices > (os.cpu_count() or 1):
        raise ValueError(f"devices={devices}, but this machine has {os.cpu_count()} cores; give at most as many, or 1.")
    quietly = without_bars(not trainer_kwargs.get("enable_progress_bar", True))
    if self.schema.is_query and not self.schema.setup["reference"]["unfrozen"]:
        with quietly:
            _train_new_batches(self, sets, max_epochs, plan_kwargs, trainer_kwargs)
        return
    reads = needs_views(plan.loss_kwargs["weights"], self.module.has_groups) and not self.schema.is_query
    views = self.init_arguments["n_views"] if reads else 0
    earlier = {k: v.copy() for k, v in (self.history_ or {}).items()}  # scvi-tools loses some of them
    with _restoring(self), torch.random.fork_rng(), _quiet(), quietly:
        torch.manual_seed(self.seed + max(map(len, earlier.values()), default=0))  # another round, other draws
        small = self.reader.frozen.is_small
        if self.schema.is_query:
            count_labelled(self, -1)  # where they are now
        with one_thread(small):
            cells = make_training_set(self.reader, data, sets[0], views, self.seed, str(device))
        with one_thread(small or not self.module.passes_backbone):
            self.reader.remember(self.reader.key(data), cells.arrays)
            done = partial(finish, self.reader, data, cells, sets[0], self.seed)
            loader = CellDataModule(cells, *sets, batch_size=batch_size)
            max_epochs = default_epochs(loader.n_train, batch_size) if max_epochs is None else max_epochs
            arguments = _trainer_arguments(trainer_kwargs, self, done, early_stopping, bool(len(sets[1])))
            runner = TrainRunner(self, plan, loader, max_epochs, accelerator, devices, benchmark=False, **arguments)
            self.module.train()  # scvi-tools leaves a trained module in eval mode and Lightning keeps it
            self._map = None  # of the embedding that was
            self.is_trained_, self.history_ = False, None  # else scvi-tools adds to the old curves; _joined does
            stopped: BaseException | None = None
            try:
                if max_epochs:
                    runner()
            except (KeyboardInterrupt, SystemExit):  # Lightning ends the process; a session wants to go on
                stopped = KeyboardInterrupt()
                if not runner.trainer.global_step:  # nothing was learned that could be kept
                    raise stopped from None
            except Exception as error:
                if not any(getattr(callback, "has_restored", False) for callback in arguments["callbacks"]):
                    raise
                stopped = error
            self.history_ = _joined(earlier, self.history_ or {})
            self.module.eval()
            self.is_trained_ = True
            done()
            if self.schema.is_query:
                count_labelled(self)
                weigh_new_batches(self)
    if stopped is not None:
        raise stopped


def _train_new_batches(
    model: MoRE,
    sets: tuple[np.ndarray, np.ndarray, np.ndarray],
    max_epochs: int | None,
    plan_kwargs: dict[str, Any],
    trainer_kwargs: dict[str, Any],
) -> None:
    """Learn what the new batches of a query need; nothing of it goes through Lightning."""
    unused = [name for name in trainer_kwargs if name not in SILENT] + [k for k in plan_kwargs if k not in ("lr",)]
    if unused:
        warn(
            f"train fits the new batches of the query in closed steps and ignores {listing(unused)};"
            " MoRE.load_query_data(..., unfrozen=True) trains all with them."
        )
    with _restoring(model), torch.random.fork_rng(), one_thread(), _on_cpu(model):
        torch.manual_seed(model.seed)
        forget_compositions(model, labelled=False)  # aims are made of answers
        given = {"n_epochs": max_epochs, "lr": plan_kwargs.get("lr")}
        curves = fit_new_batches(model, sets, **{k: v for k, v in given.items() if v is not None})
        weigh_new_batches(model)
        model.history_ = _joined(model.history_ or {}, curves)
        model.is_trained_ = True


@contextmanager
def _on_cpu(model: MoRE) -> Iterator[None]:
    """Where few numbers are fitted on all cells at a time."""
    device = next(model.module.parameters()).device
    model.module.to("cpu")
    try:
        yield
    finally:
        model.module.to(device)


@contextmanager
def _restoring(model: MoRE) -> Iterator[None]:
    """Put everything back as it was if training fails."""
    state = {name: tensor.detach().clone() for name, tensor in model.module.state_dict().items()}
    before = model.is_trained_, model.history_, model._map
    try:
        yield
    except BaseException:
        model.module.load_state_dict(state)
        model.module.eval()
        model.is_trained_, model.history_, model._map = before
        model.reader.forget()
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Lightning's remarks on its own settings, and its advertisement of another product."""

    def matters(record: logging.LogRecord) -> bool:
        return "litlogger" not in record.getMessage()

    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    lightning.addFilter(matters)
    with warnings.catch_warnings():  # data lie in memory without workers; frozen parts stay in eval mode on purpose
        warnings.filterwarnings("ignore", message=".*num_workers.*|.*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*")
        warnings.filterwarnings("ignore", message=".*ambiguous collection.*|.*in eval mode.*")
        try:
            yield
        finally:
            lightning.removeFilter(matters)


def _trainer_arguments(
    given: dict[str, Any], model: MoRE, done: Any, early_stopping: bool, validates: bool
) -> dict[str, Any]:
    """Arguments of the trainer: checkpoints are whole models, and curves are kept beside a user's own logger."""
    out = {k: list(v) if isinstance(v, list) else v for k, v in given.items()}  # scvi-tools appends to lists
    callbacks = [
        RestoringCheckpoint.of(c, done, model.load_weights) if isinstance(c, SaveCheckpoint) else c
        for c in out.get("callbacks") or []
    ]
    if out.get("enable_checkpointing") and not any(isinstance(c, SaveCheckpoint) for c in callbacks):
        monitor = out.get("checkpointing_monitor", "validation_loss")
        callbacks.append(RestoringCheckpoint.of(SaveCheckpoint(monitor=monitor), done, model.load_weights))
    out["callbacks"] = callbacks
    logger = out.get("logger")
    if logger is not None and not isinstance(logger, bool):
        loggers = list(logger) if isinstance(logger, list | tuple) else [logger]
        out["logger"] = [SimpleLogger(), *loggers]  # scvi-tools reads the curves of the first
    out["early_stopping"] = early_stopping
    if early_stopping:
        out.setdefault("early_stopping_monitor", "validation_loss")  # the default, elbo_validation, is not the loss
    if validates:
        out.setdefault("check_val_every_n_epoch", 1)  # scvi-tools would hold cells out and never look at them
    return out


class History(dict[str, pd.DataFrame]):
    """Curves by name; a name that is not there leads to those that are."""

    def __missing__(self, name: str) -> pd.DataFrame:
        raise KeyError(f"history holds no curve {name!r}; it holds {listing(self, 30)}.{nearest(name, self)}")


def _joined(earlier: dict[str, pd.DataFrame], new: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Histories of several rounds of training, one after the other; epochs are numbered on."""
    start = max((int(v.index.max()) + 1 for v in earlier.values() if len(v)), default=0)
    moved = {k: v.set_axis(v.index + start).rename_axis(v.index.name) for k, v in new.items()}
    return {k: pd.concat([d[k] for d in (earlier, moved) if k in d]) for k in dict.fromkeys([*earlier, *moved])}
