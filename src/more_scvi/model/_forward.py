"""Cells through the trained module, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from more_scvi._threads import one_thread
from more_scvi.base._arrays import Arrays
from more_scvi.module._module import MoREModule

BLOCK = 4096
Outputs = dict[str, torch.Tensor]


@torch.inference_mode()
@one_thread()
def forward(
    module: MoREModule,
    arrays: Arrays,
    read: Callable[[Outputs], torch.Tensor],
    rows: np.ndarray | None = None,
    size: int = BLOCK,
) -> np.ndarray:
    """Pass rows through the module and collect ``read(outputs)``.

    The module is in evaluation mode meanwhile and as before afterwards.

    Parameters
    ----------
    module
        The module.
    arrays
        Cells.
    read
        Takes what :meth:`more_scvi.module.MoREModule.inference` returns, with ``log_probs`` (of the answer; None
        without labels), ``embedding`` and ``present``; returns one row per cell.
    rows
        Cells to pass, in order; None: all.
    size
        Cells per block.
    """
    rows = np.arange(len(arrays)) if rows is None else rows
    device, was_training, parts = next(module.parameters()).device, module.training, []
    module.eval()
    try:
        for start in range(0, max(len(rows), 1), size):
            at = rows[start : start + size]
            base, present, wide, domain = (
                torch.from_numpy(array[at]).to(device)
                for array in (arrays.base, arrays.present, arrays.wide, arrays.domain)
            )
            out: dict[str, Any] = module.inference(base, present, domain)
            out["log_probs"], out["present"] = None, present
            if module.annotator is not None:
                out["log_probs"] = module.annotate(out["z_labels"], *module.annotator.hear(wide, present), present)
            out["embedding"] = module.embed(out["z"], out["log_probs"], domain)
            parts.append(read(out).float().cpu().numpy())
    finally:
        module.train(was_training)
    return np.concatenate(parts)
