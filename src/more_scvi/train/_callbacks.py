"""scvi-tools' checkpoint callback for models that are not saved as a pickle."""

from __future__ import annotations

from typing import Any

import lightning
from scvi.train import SaveCheckpoint


class RestoringCheckpoint(SaveCheckpoint):
    """As upstream, but the best checkpoint is restored by the model (``model.load_weights``)."""

    @classmethod
    def of(cls, callback: SaveCheckpoint) -> RestoringCheckpoint:
        """Take over a user's callback; both share their state, so the user reads ``best_model_path`` as always."""
        own = object.__new__(cls)
        own.__dict__ = callback.__dict__
        return own

    def on_save_checkpoint(self, trainer: lightning.Trainer, *args) -> None:
        """Save the model as it would be if training ended here."""
        _model(trainer)._finish()
        super().on_save_checkpoint(trainer, *args)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Restore the best weights if ``load_best_on_end``."""
        if self.load_best_on_end and self.best_model_path:
            _model(trainer).load_weights(self.best_model_path)

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception) -> None:
        """Restore the best weights if ``check_nan_gradients``; the error is raised all the same."""
        if self.check_nan_gradients and self.best_model_path and not isinstance(exception, KeyboardInterrupt):
            _model(trainer).load_weights(self.best_model_path)


def _model(trainer: lightning.Trainer) -> Any:
    """The model that scvi-tools hangs on its trainer."""
    return trainer._model  # type: ignore[attr-defined]
