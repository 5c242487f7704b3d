"""Guards: what integration without labels must leave as it is, compared with `pca_raw`. Writes tuning/guards.md.

    python benchmarks/guards.py [--sets human_gastrula ...] [--methods more harmony] [--types 2]

halves, whole: the largest batch alone, split at random into two, and not. lone: a type is taken out of all batches but
one. conditions: three of six simulated donors are treated, and two of four types respond.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from anndata import AnnData
from catalogue import TEXTS
from development import load
from frame import arguments, made_by, markdown, write

import more_scvi as more
from more_scvi.evaluation import make_tasks, run_task
from more_scvi.evaluation._data import subset
from more_scvi.metrics import balanced_accuracy, probe_probabilities, purity, structure

SETS = ["human_gastrula", "mouse_lung_immune", "mouse_oligo_regions"]
Case = tuple[str, str, AnnData, dict[str, Callable[[np.ndarray], float]]]  # none: the figures of the protocol


def cases(data: AnnData, types: int) -> Iterator[Case]:
    kind, batch = (data.obs[key].to_numpy().astype(str) for key in ("cell_type", "batch"))
    home = pd.Series(batch).value_counts().index[0]
    part = subset(data, batch == home)
    part.obs["batch"] = np.where(np.random.default_rng(0).permutation(part.n_obs) % 2, "one", "two")
    yield "halves", home, part, {}
    by, one = next(make_tasks(part, "S7")).prepare(), AnnData(part.X, part.obs.assign(batch="one"), part.var)
    yield "whole", home, one, {"structure": lambda z: structure(z, by.data.obsm["view"], by.labels, by.batches)}
    for name in pd.Series(kind[(batch == home) & np.isin(kind, kind[batch != home])]).value_counts().index[:types]:
        part = subset(data, (kind != name) | (batch == home))
        alone = part.obs["cell_type"].to_numpy() == name
        yield "lone", f"{name} in {home}", part, {"purity": lambda z, alone=alone: purity(z, alone)}


def conditions(genes: pd.Index) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    data = more.data.simulate_batches(1800, 1000, 4, 6, state_sd=0.3, gene_names=list(rng.choice(genes, 1000, False)))
    donor, kind = (data.obs[key].to_numpy().astype(str) for key in ("batch", "cell_type"))
    condition = np.where(np.isin(donor, np.unique(donor)[::2]), "treated", "control")
    responds, counts = np.isin(kind, np.unique(kind)[:2]), data.X.toarray().astype(int)
    for genes_of, name in zip(rng.permutation(1000)[:100].reshape(2, 50), np.unique(condition), strict=True):
        lost = np.ix_(responds & (condition == name), genes_of)  # what such a cell makes less of
        counts[lost] = rng.binomial(counts[lost], 0.5)

    def told(z: np.ndarray) -> float:
        z, y, of, scores = z[responds], condition[responds], donor[responds], []
        for pair in np.unique(donor).reshape(-1, 2):
            asked = np.isin(of, pair)
            scores.append(balanced_accuracy(y[asked], probe_probabilities(z, y, asked).idxmax(axis=1)[asked]))
        return float(np.mean(scores))

    for key, batch in (("donor", donor), ("condition", condition)):
        obs = pd.DataFrame({"batch": batch, "cell_type": kind}, index=data.obs_names)
        yield "conditions", f"batch is {key}", AnnData(counts.astype(np.float32), obs, data.var[[]]), {"told": told}


if __name__ == "__main__":
    args = arguments(__doc__, sets=SETS, types=2, methods=["more", "pca_raw", "pca", "harmony"])
    asked = [(name, case) for name in args.sets for case in cases(load(name, args.data, 1600), args.types)]
    asked += [("simulated", case) for case in conditions(load("human_gastrula", args.data).var_names)]
    rows = []
    for name, (guard, what, data, figures) in asked:
        task = next(make_tasks(data, "S7"))
        for method in args.methods:
            result, record = run_task(task, method)
            found = {key: of(result.z) for key, of in figures.items()}
            for key, value in (found or {key: record["scores"][key] for key in ("structure", "CiLISI")}).items():
                row = {"guard": guard, "set": name, "what": what, "method": method, "figure": key}
                rows.append(row | {"value": f"{value:.3f}"})
    write(args.results / "tuning/guards.md", "Guards", made_by(), TEXTS["guards"], markdown(rows))
