"""Protocol S8: are the same cells annotated alike, whichever other cells came along? Writes tuning/composition.md.

    python benchmarks/composition.py [--sets human_gastrula ...] [--batches 1] [--methods more lda]

Batches are left out in turn and their labels hidden. The query is all of one, half of its types, or its most frequent
type; it is trained with the others (S2a), or mapped onto a model of these (S2b). Methods answer by their own
classifier, those that see no label by 15 neighbours among the other cells.
"""

from itertools import product

import numpy as np
import pandas as pd
from anndata import AnnData
from catalogue import TEXTS
from development import load
from frame import arguments, made_by, markdown, write

from more_scvi.evaluation import make_splits, make_tasks, run_task
from more_scvi.evaluation._data import subset
from more_scvi.metrics import knn_predict

SETS = ["human_gastrula", "mouse_lung_immune", "mouse_oligo_regions"]
METHODS = ["more", "more:label-free", "lr_hvg", "lda"]
WAYS = {"joint": "S2a", "mapped": "S2b"}


def ask(data: AnnData, batch: str, protocol: str, method: str) -> pd.Series:
    """Which cells of the batch are annotated right."""
    splits = make_splits(data.obs["cell_type"], data.obs["batch"], protocol, max_rotations=data.n_obs)
    task = next(make_tasks(data, protocol, splits=[split for split in splits if split.held_out == batch]))
    result, _ = run_task(task, method)
    said = knn_predict(result.z, task.labels, task.hidden) if result.prediction is None else result.prediction
    return pd.Series((said == task.labels)[task.hidden], data.obs_names[data.obs["batch"] == batch])


def main() -> None:
    args = arguments(__doc__, sets=SETS, batches=3, methods=METHODS)
    rows = []
    for name in args.sets:
        data = load(name, args.data, 1600)
        kind, batches = data.obs["cell_type"].to_numpy(), data.obs["batch"].to_numpy()
        for batch in np.unique(batches)[: args.batches]:
            here = batches == batch
            types = pd.Series(kind[here & np.isin(kind, kind[~here])]).value_counts().index  # the most frequent first
            for method, (way, protocol) in product(args.methods, WAYS.items()):
                parts = [subset(data, ~here | np.isin(kind, some)) for some in (types, types[::2], types[:1])]
                all_of, *cuts = (ask(part, batch, protocol, method) for part in parts)
                for cut, alone in zip(("half", "one"), cuts, strict=True):
                    row = {"set": name, "batch": batch, "types": len(types), "method": method, "way": way, "query": cut}
                    among = all_of[alone.index]
                    shares = {"alone": alone.mean(), "among": among.mean(), "changed": (alone != among).mean()}
                    rows.append(row | {key: f"{share:.3f}" for key, share in shares.items()})
    write(args.results / "tuning/composition.md", "Composition", made_by(), TEXTS["composition"], markdown(rows))


if __name__ == "__main__":
    main()
