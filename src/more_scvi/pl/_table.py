"""What the plots of an evaluation share: reading the tidy table, naming metrics, telling controls from methods."""

import pandas as pd

from ._labels import shown

COLUMNS = ("protocol", "seed", "method", "metric", "value")
"""What a tidy table must have; ``dataset`` and ``rotation`` are averaged over where they are there."""

CONTROL = "#757575"

WORDS = {
    "own": "macro-F1, own classifier",
    "LR": "macro-F1, linear probe",
    "kNN": "macro-F1, 15 neighbours",
    "CiLISI": "batch mixing within types (CiLISI)",
    "structure": "structure kept within types",
    "dimension": "effective dimension within types",
    "novelty_own": "novelty AUROC, own classifier",
    "novelty_LR": "novelty AUROC, linear probe",
    "novelty_kNN": "novelty AUROC, 15 neighbours",
    "purity": "neighbourhood purity of the type",
    "target_own": "F1 of the rare type, own classifier",
    "target_LR": "F1 of the rare type, linear probe",
    "target_kNN": "F1 of the rare type, 15 neighbours",
    "target_AP": "average precision of the rare type",
    "pearson": "Pearson correlation of imputed values",
    "spearman": "Spearman correlation of imputed values",
    "FOSCTTM": "FOSCTTM (0 is best)",
    "recall@10": "matched cell among 10 neighbours",
}


def words(metric: str) -> str:
    """Axis label of a metric; its name where there is none."""
    return WORDS.get(metric) or shown([metric])[0]


def is_control(method: str) -> bool:
    """Whether a method only shows what a metric rewards: noise, the class alone, or a model that saw hidden labels."""
    return method.split(":")[0] in ("random", "shuffled", "onehot-LR", "LEAK")


def check_table(table: pd.DataFrame) -> None:
    """Refuse what is no tidy table of ``evaluation.run``, naming the columns it lacks."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"table is a {type(table).__name__}; give the DataFrame that more_scvi.evaluation.run returns, with the"
            f" columns {', '.join(COLUMNS)}."
        )
    if missing := [name for name in COLUMNS if name not in table]:
        raise KeyError(
            f"table has no column {', '.join(map(repr, missing))}; it has {list(map(str, table.columns))}. Give the"
            " tidy table of more_scvi.evaluation.run: one row per split, method and metric."
        )


def select(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of ``table`` with a value of ``metric``; an error lists the metrics there are."""
    check_table(table)
    rows = table[table["value"].notna()]
    chosen = rows[rows["metric"] == metric]
    if chosen.empty:
        known = sorted(map(str, rows["metric"].unique()))
        raise ValueError(f"table has no value of metric {metric!r}; it has values of {known}.")
    return chosen


def only_protocol(table: pd.DataFrame, protocol: str | None) -> pd.DataFrame:
    """Rows of one protocol, or all; an error lists the protocols there are."""
    check_table(table)
    if protocol is None:
        return table
    if protocol not in set(table["protocol"]):
        raise ValueError(f"table has no protocol {protocol!r}; it has {sorted(table['protocol'].unique())}.")
    return table[table["protocol"] == protocol]


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over rotations and data sets, then over seeds.

    Returns
    -------
    Indexed by (method, protocol): ``mean``, and ``min`` and ``max`` over seeds.
    """
    values = rows.assign(value=rows["value"].astype(float))
    keys = ["method", "protocol", "seed"]
    if "dataset" in values:  # a data set with more held-out batches does not count more
        values = values.groupby([*keys, "dataset"], observed=True, as_index=False)["value"].mean()
    per_seed = values.groupby(keys, observed=True)["value"].mean()
    return per_seed.groupby(level=["method", "protocol"]).agg(["mean", "min", "max"])


def ranked(means: pd.Series) -> list[str]:
    """Methods from best to worst, controls after all others."""
    order = means.sort_values(ascending=False, kind="stable").index
    return [*(m for m in order if not is_control(m)), *(m for m in order if is_control(m))]


def positions(table: pd.DataFrame) -> dict[str, int]:
    """Method → place of its colour: the same in every plot of the same table."""
    methods = dict.fromkeys(map(str, table["method"]))
    return {method: i for i, method in enumerate(m for m in methods if not is_control(m))}


def natural(protocols: pd.Index | set[str] | list[str]) -> list[str]:
    """Protocols in order, ``S4-3`` before ``S4-10``."""

    def key(name: str) -> tuple[str, float, str]:
        head, _, tail = name.partition("-")
        return head, float(tail) if tail.replace(".", "", 1).isdigit() else -1.0, tail

    return sorted(map(str, protocols), key=key)
