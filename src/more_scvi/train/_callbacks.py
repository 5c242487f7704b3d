"""scvi-tools' checkpoint callback for models that are not saved as a pickle."""

from collections.abc import Callable
from typing import Any, Self

import lightning
from scvi.train import SaveCheckpoint


class RestoringCheckpoint(SaveCheckpoint):
    """As upstream, but each checkpoint is a whole model, and the best is restored by the model itself."""

    _finish: Callable[[], None]
    _restore: Callable[[str], None]
    has_restored = False
    """Whether training failed and the best weights took the place of its last ones."""

    @classmethod
    def of(cls, callback: SaveCheckpoint, finish: Callable[[], None], restore: Callable[[str], None]) -> Self:
        """Take over a user's callback; both share their state, so the user reads ``best_model_path`` as always.

        Parameters
        ----------
        callback
            The user's.
        finish
            Does what follows the last step; nothing that it fits is read by a loss.
        restore
            Puts the weights of a folder into the model.
        """
        own = object.__new__(cls)  # a second __init__ would lose the state of the first, its best path above all
        own.__dict__ = callback.__dict__ | {"_finish": finish, "_restore": restore, "has_restored": False}
        callback.__dict__ = own.__dict__
        return own

    def on_save_checkpoint(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Save the model as it would be if training ended here."""
        self._finish()
        super().on_save_checkpoint(trainer, *args)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Restore the best weights if ``load_best_on_end``."""
        if self.load_best_on_end and self.best_model_path:
            self._restore(self.best_model_path)

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception) -> None:
        """Restore the best weights if ``check_nan_gradients``; the error is raised all the same."""
        # Ctrl-C keeps what was learned until then
        if self.check_nan_gradients and self.best_model_path and not isinstance(exception, KeyboardInterrupt):
            self._restore(self.best_model_path)
            self.has_restored = True
