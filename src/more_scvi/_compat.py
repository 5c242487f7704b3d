"""What differs between versions of scvi-tools and mudata, in one place: an upgrade breaks here or nowhere.

Every name has a test of its own in ``tests/test_compat.py``.
"""

from contextlib import AbstractContextManager, nullcontext

import mudata
from scvi.data._constants import _SCVI_UUID_KEY as SCVI_UUID_KEY
from scvi.model._utils import parse_device_args
from scvi.train import TrainingPlan
from scvi.train._logger import SimpleLogger

compute_and_log_metrics = TrainingPlan.compute_and_log_metrics.__wrapped__
"""``TrainingPlan.compute_and_log_metrics`` without its ``torch.inference_mode``.

With the decorator, metrics that are synchronised between processes are inference tensors, and Lightning fails to
update them at the end of the epoch. Call it under ``torch.no_grad()``.
"""


def no_pull() -> AbstractContextManager[object]:
    """Columns of the modalities stay there when a MuData is made or read, as they always do from mudata 0.4 on."""
    return mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext()


__all__ = ["SCVI_UUID_KEY", "SimpleLogger", "compute_and_log_metrics", "no_pull", "parse_device_args"]
