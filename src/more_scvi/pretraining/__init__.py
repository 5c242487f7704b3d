"""How the bundled backbone was made: ``python -m more_scvi.pretraining``."""

from ._finetune import Finetuned, finetune
from ._markers import marker_sets
from ._pool import Pool, full_vocabulary, read_pool
from ._programs import fit_front
from ._train import PretrainSettings, pretrain
from ._views import Views, make_views

__all__ = [
    "Finetuned", "Pool", "PretrainSettings", "Views", "finetune", "fit_front", "full_vocabulary", "make_views",
    "marker_sets", "pretrain", "read_pool",
]  # fmt: skip
