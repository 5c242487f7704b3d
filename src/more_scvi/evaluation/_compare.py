"""The tidy table in short: means per method, one figure per method, two methods on the splits that both have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from more_scvi.data._arguments import check_mapping, check_type

from ._splits import drawn

TIE = 0.005
"""Smaller differences count as a tie."""
LOWER_IS_BETTER = ("FOSCTTM", "ECE", "drift", "grow_seconds")
ROW = ["dataset", "protocol"]
SPLIT = [*ROW, "draw", "rotation"]
MIN_ROWS, MIN_SOURCES, DRAWS = 6, 3, 10_000  # of 5 rows no two-sided signed-rank test gives p < 0.05


@dataclass(frozen=True, eq=False)
class Comparison:
    """Ours against another method, see :func:`compare`.

    Parameters
    ----------
    ours, other, metric
        What was compared.
    splits
        One row per shared split, indexed by ``dataset``, ``protocol``, ``draw`` and ``rotation``: ``ours``, ``other``
        and ``difference``.
    rows
        Their means per ``dataset`` and ``protocol``, and ``n_splits``.
    n_sources
        Number of independent sources of data among the rows.
    difference
        Mean of ``rows["difference"]``, ours minus other; NaN without a shared split.
    interval
        95 % interval of that mean when the sources are resampled; ``None`` for fewer than 3 sources.
    p
        Wilcoxon signed-rank test of the rows, two-sided; ``None`` for fewer than 2 rows.
    effect
        Rank-biserial correlation of the same ranks: 1 if every row is in favour of ours, -1 if every row is against.
    limits
        What the number of rows and sources does not allow to say; empty if it allows for both figures.
    """

    ours: str
    other: str
    metric: str
    splits: pd.DataFrame
    rows: pd.DataFrame
    n_sources: int
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    effect: float | None
    limits: str

    @property
    def n_rows(self) -> int:
        """Number of (data set, protocol) that both methods have."""
        return len(self.rows)

    def tally(self, of: str = "rows") -> tuple[int, int, int]:
        """Won, tied and lost, ``of`` the ``"rows"`` or the ``"splits"``; a difference below 0.005 is a tie."""
        gain = (self.rows if of == "rows" else self.splits)["difference"] * _sign(self.metric)
        tied = gain.abs() < TIE
        return int((gain[~tied] > 0).sum()), int(tied.sum()), int((gain[~tied] < 0).sum())

    def verdict(self) -> str:
        """``"better"``, ``"worse"``, ``"level"`` (below 0.005), ``"not shown"`` or ``"not measured"``.

        A difference is shown if its interval excludes zero; without an interval it never is.
        """
        if not self.n_rows:
            return "not measured"
        if abs(self.difference) < TIE:
            return "level"
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "not shown"
        return "better" if self.difference * _sign(self.metric) > 0 else "worse"


def compare(
    table: pd.DataFrame, ours: str, other: str, metric: str = "own", sources: Mapping[str, str] | None = None
) -> Comparison:
    """Compare two methods on the splits that both have.

    A split is what was hidden: where nothing is drawn (``S2a``, ``S2b``, ``S6``), the runs of a method with several
    seeds are averaged first. Splits are averaged within (data set, protocol), and these rows count alike.

    Splits and protocols of a data set share its cells, so they are not independent. The interval resamples whole
    sources of data and respects this; the test takes rows for independent and is too sure of itself where a source has
    several rows. Go by the interval.

    Parameters
    ----------
    table
        Tidy table of :func:`~more_scvi.evaluation.run` or :func:`~more_scvi.evaluation.tidy`.
    ours, other
        Names of methods.
    metric
        A metric of the table. Higher is better, but for ``FOSCTTM``.
    sources
        Data set → where its cells are from, for data sets that share cells. Default: each is a source of its own.

    Raises
    ------
    KeyError
        If the table has no such column, method or metric.

    Examples
    --------
    >>> rows = [("d", "S1", s, 0, m, "own", v) for s, v in [(0, 0.8), (1, 0.9)] for m in ("a", "b")]
    >>> columns = ["dataset", "protocol", "seed", "rotation", "method", "metric", "value"]
    >>> table = pd.DataFrame(rows, columns=columns)
    >>> table.loc[table["method"] == "a", "value"] += 0.05
    >>> found = compare(table, "a", "b")
    >>> round(found.difference, 3), found.tally("splits"), found.limits
    (0.05, (2, 0, 0), '1 source of data: no interval; 1 row: no test')
    """
    values = split_values(table, metric)
    for argument, name in (("ours", ours), ("other", other)):
        check_type(argument, name, str, "the name of a method")
    if ours == other:
        raise ValueError(f"ours and other are both {ours!r}; name two methods.")
    sources = check_mapping("sources", sources)
    if missing := [name for name in (ours, other) if name not in set(table["method"])]:
        known = ", ".join(sorted(set(table["method"])))
        raise KeyError(f"The table has no method {missing[0]!r}; it has {known}.")
    return compare_columns(values, ours, other, metric, sources)


def compare_columns(
    values: pd.DataFrame, ours: str, other: str, metric: str, sources: Mapping[str, str] | None = None
) -> Comparison:
    """:func:`compare` on what :func:`split_values` returns, for many comparisons of one metric."""
    columns = {"ours": values.get(ours, pd.Series(dtype=float)), "other": values.get(other, pd.Series(dtype=float))}
    splits = pd.DataFrame(columns, index=values.index).dropna()
    splits["difference"] = splits["ours"] - splits["other"]
    grouped = splits.groupby(level=ROW)
    rows = grouped.mean().assign(n_splits=grouped.size())
    return of_rows(splits, rows, ours, other, metric, sources)


def of_rows(
    splits: pd.DataFrame,
    rows: pd.DataFrame,
    ours: str,
    other: str,
    metric: str,
    sources: Mapping[str, str] | None = None,
) -> Comparison:
    """What the differences of ``rows``, indexed by data set and protocol, allow to say."""
    difference = rows["difference"].to_numpy()
    datasets = rows.index.get_level_values("dataset")
    source = np.array([(sources or {}).get(name, name) for name in datasets], dtype=object)
    n_sources = len(set(source))
    mean = float(difference.mean()) if difference.size else float("nan")
    interval = cluster_interval(difference, source)
    p, effect = signed_rank(difference * _sign(metric))
    limits = _limits(len(rows), n_sources)
    return Comparison(ours, other, metric, splits, rows, n_sources, mean, interval, p, effect, limits)


def split_values(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Splits × methods of one metric; one value per split, the mean over seeds where nothing is drawn."""
    check_type("table", table, pd.DataFrame, "the tidy table of more_scvi.evaluation.run")
    check_type("metric", metric, str, "the name of a metric, e.g. 'own'")
    if missing := [name for name in (*ROW, "seed", "rotation", "method", "metric", "value") if name not in table]:
        raise KeyError(f"The table has no column {missing[0]!r}; give the tidy table of more_scvi.evaluation.run.")
    if metric not in set(table["metric"]):
        raise KeyError(f"The table has no metric {metric!r}; it has {', '.join(sorted(set(table['metric'])))}.")
    rows = table[table["metric"] == metric]
    try:
        rows = rows.astype({"value": float})
    except (TypeError, ValueError) as error:
        raise TypeError(f"table['value'] holds what is no number ({error}); give numbers, NaN for no value.") from None
    by_seed = {name: drawn(name) for name in set(rows["protocol"])}
    rows = rows.assign(draw=rows["seed"].where(rows["protocol"].map(by_seed), 0))
    return rows.pivot_table("value", SPLIT, "method", aggfunc="mean", observed=True)


def cluster_interval(
    values: NDArray, clusters: NDArray, level: float = 0.95, draws: int = DRAWS
) -> tuple[float, float] | None:
    """Percentile interval of the mean of ``values`` ``(n,)`` when whole ``clusters`` ``(n,)`` are drawn with return.

    Seeded; ``None`` for fewer than 3 clusters, where there is hardly anything to draw from.
    """
    codes, names = pd.factorize(clusters)
    n = len(names)
    if n < MIN_SOURCES:
        return None
    sums, counts = np.bincount(codes, values, n), np.bincount(codes, minlength=n)
    taken = np.random.default_rng(0).integers(n, size=(draws, n))
    means = sums[taken].sum(axis=1) / counts[taken].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def signed_rank(differences: NDArray) -> tuple[float | None, float | None]:
    """Wilcoxon's two-sided p and the rank-biserial correlation of paired differences; zeros carry no rank."""
    nonzero = differences[differences != 0]
    if differences.size < 2:
        return None, None
    if nonzero.size == 0:
        return 1.0, 0.0
    ranks = rankdata(np.abs(nonzero))
    return float(wilcoxon(nonzero).pvalue), float((ranks * np.sign(nonzero)).sum() / ranks.sum())


def _sign(metric: str) -> int:
    return -1 if metric in LOWER_IS_BETTER else 1


def _limits(n_rows: int, n_sources: int) -> str:
    if not n_rows:
        return "no split in common"
    parts = []
    if n_sources < MIN_SOURCES:
        parts.append(f"{n_sources} source{'s' * (n_sources > 1)} of data: no interval")
    if n_rows < 2:
        parts.append("1 row: no test")
    elif n_rows < MIN_ROWS:
        parts.append(f"{n_rows} rows: no p below {2.0 ** (1 - n_rows):.3g} is possible")
    return "; ".join(parts)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and range of every figure over rotations and seeds.

    Parameters
    ----------
    table
        Tidy table of :func:`~more_scvi.evaluation.run` or :func:`~more_scvi.evaluation.tidy`.

    Returns
    -------
    Indexed by ``dataset``, ``protocol``, ``method`` and ``metric``: ``mean`` (over seeds, then over rotations), ``min``
    and ``max`` over all of them, ``n_seeds``, ``n_rotations``.

    Examples
    --------
    >>> rows = [("d", "S2a", seed, 0, "pca", "LR", value) for seed, value in [(0, 0.8), (1, 0.9)]]
    >>> columns = ["dataset", "protocol", "seed", "rotation", "method", "metric", "value"]
    >>> summarise(pd.DataFrame(rows, columns=columns)).loc[("d", "S2a", "pca", "LR")].round(2).to_dict()
    {'mean': 0.85, 'min': 0.8, 'max': 0.9, 'n_seeds': 2.0, 'n_rotations': 1.0}
    """
    keys = [*ROW, "method", "metric"]
    per_rotation = table.groupby([*keys, "rotation"], observed=True)["value"].mean()
    grouped = table.groupby(keys, observed=True)
    out = grouped["value"].agg(["min", "max"])
    out.insert(0, "mean", per_rotation.groupby(level=keys).mean())
    return out.join(grouped.agg(n_seeds=("seed", "nunique"), n_rotations=("rotation", "nunique")))


def choose(table: pd.DataFrame, candidates: Sequence[str]) -> dict[str, str]:
    """The one of several metrics that represents each method: the highest by the mean over all rows.

    It is chosen once, never row by row, over the rows (data set × protocol) that have every candidate the method has at
    all. Variants (``"<method>:<what changed>"``) take the choice of their method, so that they are compared with it by
    the same figure.
    """
    means = summarise(table[table["metric"].isin(candidates)])["mean"].unstack("metric")
    own = {}
    for method, of in means.groupby(level="method"):
        present = [name for name in candidates if name in of and of[name].notna().any()]
        own[str(method)] = str(of[present].dropna().mean().reindex(present).fillna(-1).idxmax())  # NaN: no such row
    chosen = {}
    for method in own:
        inherited = own.get(method.split(":")[0], own[method])
        has = means.xs(method, level="method").notna().any()
        chosen[method] = inherited if has[inherited] else own[method]
    return chosen


def with_chosen(table: pd.DataFrame, name: str, candidates: Sequence[str]) -> pd.DataFrame:
    """The table with a further metric ``name``: for each method the candidate of :func:`choose`."""
    if not table["metric"].isin(candidates).any():
        return table
    chosen = choose(table, candidates)
    of_method = table["method"].map(chosen)
    return pd.concat([table, table[table["metric"] == of_method].assign(metric=name)], ignore_index=True)
