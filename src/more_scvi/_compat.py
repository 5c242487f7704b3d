"""What differs between versions of scvi-tools and mudata, in one place: an upgrade breaks here or nowhere.

Every name has a test of its own in ``tests/test_compat.py``.
"""

from contextlib import AbstractContextManager, nullcontext

import mudata
from scvi.data._constants import _FIELD_REGISTRIES_KEY as FIELD_REGISTRIES_KEY
from scvi.data._constants import _MANAGER_UUID_KEY as MANAGER_UUID_KEY
from scvi.data._constants import _MODEL_NAME_KEY as MODEL_NAME_KEY
from scvi.data._constants import _SCVI_UUID_KEY as SCVI_UUID_KEY
from scvi.data._constants import _SETUP_ARGS_KEY as SETUP_ARGS_KEY
from scvi.data._constants import _STATE_REGISTRY_KEY as STATE_REGISTRY_KEY
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


__all__ = [
    "FIELD_REGISTRIES_KEY",
    "MANAGER_UUID_KEY",
    "MODEL_NAME_KEY",
    "SCVI_UUID_KEY",
    "SETUP_ARGS_KEY",
    "SimpleLogger",
    "STATE_REGISTRY_KEY",
    "compute_and_log_metrics",
    "no_pull",
    "parse_device_args",
]
