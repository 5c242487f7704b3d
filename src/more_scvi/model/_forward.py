"""Cells through the trained module, block by block, and what must be there before that."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData

from more_scvi._threads import one_thread
from more_scvi.base._arrays import Arrays, Doubt
from more_scvi.data._arguments import warn
from more_scvi.module._module import MoREModule

if TYPE_CHECKING:
    from more_scvi.model._more import MoRE

BLOCK = 4096
Outputs = dict[str, torch.Tensor]


def embedding_and_probabilities(out: Outputs) -> torch.Tensor:
    """(cells, n_latent + labels), to be read by :func:`forward`; without labels the embedding alone."""
    p = out["log_probs"]
    return out["embedding"] if p is None else torch.cat([out["embedding"], p.exp()], 1)


@torch.inference_mode()
@one_thread()
def forward(
    module: MoREModule,
    arrays: Arrays,
    read: Callable[[Outputs], torch.Tensor],
    rows: np.ndarray | None = None,
    size: int = BLOCK,
    new_types: bool | None = None,
) -> np.ndarray:
    """Pass rows through the module and collect ``read(outputs)``.

    The module is in evaluation mode meanwhile and as before afterwards. ``read`` takes what
    :meth:`more_scvi.module.MoREModule.inference` returns, with ``log_probs`` (of the answer; None without labels),
    ``embedding``, ``present``, ``wide`` and ``shallow``, and returns one row per cell. ``rows``: in order; None: all;
    ``size`` per block. ``new_types``: whether types that came with queries are among the answers; None: for cells of
    other batches than those the reference was trained on.
    """
    rows = np.arange(len(arrays)) if rows is None else rows
    device, was_training, parts = next(module.parameters()).device, module.training, []
    module.eval()
    try:
        for start in range(0, max(len(rows), 1), size):  # for no rows one empty block, so that the width is right
            at = rows[start : start + size]
            base, present, wide, domain, shallow = (
                torch.from_numpy(array[at]).to(device)
                for array in (arrays.base, arrays.present, arrays.wide, arrays.domain, arrays.shallow)
            )
            placed = None if arrays.placed is None else torch.from_numpy(arrays.placed[at]).to(device)
            out: dict[str, Any] = module.inference(base, present, domain, placed=placed)
            out |= {"present": present, "wide": wide, "shallow": shallow}
            if arrays.doubt is None or module.annotator is None:
                out["log_probs"] = _answer(module, out["z_labels"], base, wide, present, domain, shallow)
            else:
                drawn = _draws(module, base, wide, present, domain, shallow, arrays.doubt)
                out["log_probs"] = torch.logsumexp(drawn, 0) - math.log(len(drawn))
            if module.annotator is not None:
                out["log_probs"] = module.annotator.in_batch(out["log_probs"], domain)
            if module.annotator is not None and placed is not None and module.annotator.types.open.any():
                alone = ~placed.isnan().any(1)  # heads and experts know no cells measured like these
                out["log_probs"][alone] = module.annotator.types.say(out["z_labels"][alone])
            out["log_groups"] = module.group(out["z_labels"], out["log_probs"])
            out["embedding"] = module.embed(out["z"], out["log_groups"], domain)
            if module.annotator is not None:  # last: the embedding of old cells must not depend on new types
                others = torch.from_numpy(
                    np.full(len(at), new_types) if new_types is not None else arrays.batch[at] < 0
                )
                types = module.annotator.types
                out["log_probs"] = types.widen(out["log_probs"], out["z_labels"], others.to(device))
            parts.append(read(out).float().cpu().numpy())
    finally:
        module.train(was_training)
    return np.concatenate(parts)


def _answer(
    module: MoREModule,
    z: torch.Tensor,
    base: torch.Tensor,
    wide: torch.Tensor,
    present: torch.Tensor,
    domain: torch.Tensor,
    shallow: torch.Tensor,
) -> torch.Tensor | None:
    """Log-probabilities of the answer, (cells, n_labels); None without labels."""
    if module.annotator is None:
        return None
    vouched = module.annotator.vouched(domain, shallow)
    heard = module.annotator.hear(wide, base, present, shallow, vouched)
    return module.annotate(z, base, *heard, present, vouched)


def _draws(
    module: MoREModule,
    base: torch.Tensor,
    wide: torch.Tensor,
    present: torch.Tensor,
    domain: torch.Tensor,
    shallow: torch.Tensor,
    doubt: Doubt,
) -> torch.Tensor:
    """Answers for what cells may be beside what is expected of them, (draws, cells, n_labels)."""
    widths = torch.tensor(module.layout.widths, device=base.device)
    has = present.repeat_interleave(widths, 1).to(base.dtype)
    answers = []
    usual, of_shallow = torch.from_numpy(doubt.wide), torch.from_numpy(doubt.shallow)
    for more, *further in zip(torch.from_numpy(doubt.base), usual, of_shallow, strict=True):
        shown = base + has * more.to(base.device)
        out = module.inference(shown, present, domain)
        own, others = (x.to(wide.device) for x in further)
        moved = wide.float() + torch.where(shallow[:, None], others, own)
        answers.append(_answer(module, out["z_labels"], shown, moved, present, domain, shallow))
    return torch.stack([answer for answer in answers if answer is not None])


def registered(model: MoRE, method: str) -> AnnData | MuData:
    """The registered data; refuses ``method`` if the model was loaded without them."""
    if model.adata is None:
        raise ValueError(
            f"{method} needs the registered cells, but the model was loaded without data (adata=False); load it with "
            "MoRE.load(dir, adata=adata)."
        )
    return model.adata


def check_trained(model: MoRE) -> None:
    """Refuse questions to a model that has seen no data; warn of one whose training has not ended."""
    if not bool(model.module.linear.fitted):
        raise RuntimeError("The model is not trained; call model.train() first.")
    if not model.is_trained_:
        warn("Training has not ended: these answers are those of a model on its way.")
