"""The numbers of a report, as one JSON-serialisable dict: what the page shows and what its twin holds."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from more_scvi.evaluation._compare import LOWER_IS_BETTER
from more_scvi.metrics._annotation import per_type_f1
from more_scvi.pl._table import is_control, natural, over_seeds, ranked

from ._inputs import ReportInputs
from ._words import METRICS, method_words, protocol_words, verdict


def summarise(inputs: ReportInputs) -> dict[str, Any]:
    """All numbers of the report; every value is a plain JSON type."""
    scored, labels, prediction = inputs.scored, inputs.labels, inputs.prediction
    correct = int((labels == prediction)[scored].sum())
    counts = pd.crosstab(labels[scored], prediction[scored])
    protocols = {name: _protocol(inputs.table, name) for name in natural(set(inputs.table["protocol"]))}
    order = dict.fromkeys(row["method"] for protocol in protocols.values() for row in protocol["methods"])
    summary = {
        "data": _data(inputs),
        "verdict": verdict(inputs.table, correct, int(scored.sum())),
        "notes": list(inputs.notes),
        "protocols": protocols,
        "methods": {method: method_words(method) for method in order},
        "cost": _cost(inputs.records, list(order)),
        "shown": {
            "split": inputs.split.name,
            "protocol": inputs.split.protocol,
            "seed": inputs.split.seed,
            "hidden": int(np.sum(np.asarray(inputs.split.hidden) & (labels != inputs.unlabeled))),
            "scored": int(scored.sum()),
            "correct": correct,
        },
        "per_type": per_type_f1(labels[scored], prediction[scored])[["n", "f1"]].to_dict("index"),
        "confusion": {str(row): {str(k): int(v) for k, v in of.items() if v} for row, of in counts.iterrows()},
        "modality_weights": _weights(inputs),
        "diagnosis": None if inputs.diagnosis is None else inputs.diagnosis.to_dict(),
        "splits": _splits(inputs.records),
        "split": inputs.split.to_json(),
        "versions": _versions(inputs.records),
        "command": inputs.command,
    }
    # numpy numbers and NaN become what JSON has
    return json.loads(json.dumps(summary, default=_plain), parse_constant=lambda _: None)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _data(inputs: ReportInputs) -> dict[str, Any]:
    parts = inputs.adata.mod if isinstance(inputs.adata, MuData) else {"rna": inputs.adata}
    types = np.unique(inputs.labels[inputs.labels != inputs.unlabeled])
    return {
        "name": inputs.name,
        "cells": inputs.adata.n_obs,
        "features": {name: part.n_vars for name, part in parts.items()},
        "batches": int(inputs.adata.obs[inputs.batch_key].nunique()),
        "types": int(types.size),
        "unlabelled": int((inputs.labels == inputs.unlabeled).sum()),
    }


def _protocol(table: pd.DataFrame, protocol: str) -> dict[str, Any]:
    """Methods × metrics under a protocol, methods from best to worst, controls last."""
    rows = table[(table["protocol"] == protocol) & table["value"].notna()]
    metrics = [metric for metric in METRICS if metric in set(rows["metric"])]
    points = {metric: over_seeds(rows[rows["metric"] == metric]).droplevel("protocol") for metric in metrics}
    frame = pd.DataFrame({metric: of["mean"] for metric, of in points.items()})
    first = [metric for metric in metrics if metric not in ("CiLISI", "structure")][:2] or metrics[:1]
    order = ranked(frame[first].max(axis=1).fillna(-1)) if metrics else []  # without a score: last
    splits = rows.groupby("method")[["seed", "rotation"]].apply(lambda of: len(of.drop_duplicates()))
    methods = [
        {
            "method": method,
            "control": is_control(method),
            "splits": int(splits[method]),
            "scores": {
                metric: dict(of.loc[method].astype(float)) for metric, of in points.items() if method in of.index
            },
        }
        for method in order
    ]
    return {"words": protocol_words(protocol), "metrics": metrics, "methods": methods, "best": _best(methods, metrics)}


def _best(methods: list[dict[str, Any]], metrics: list[str]) -> dict[str, list[str]]:
    """Per metric the best methods, as far as the two digits shown tell; controls left out."""
    best = {}
    for metric in metrics:
        sign = -1 if metric in LOWER_IS_BETTER else 1
        named = [m for m in methods if not m["control"] and metric in m["scores"]]
        means = {m["method"]: sign * m["scores"][metric]["mean"] for m in named}
        if len(means) > 1:
            highest = round(max(means.values()), 2)
            best[metric] = [method for method, mean in means.items() if round(mean, 2) == highest]
    return best


def _cost(records: Iterable[dict[str, Any]], order: list[str]) -> list[dict[str, Any]]:
    """Means over the runs of each method: CPU seconds per stage and in all, growth of memory, parameters."""
    rows = [
        {"method": record["method"], "memory": record.get("peak_memory")}
        | {f"seconds_{stage}": seconds for stage, seconds in record["seconds"].items()}
        | {"seconds": sum(record["seconds"].values()) or None}
        | {key: record["parameters"].get(key) for key in ("trained", "frozen")}
        for record in records
        if record["method"] in order
    ]
    if not rows:
        return []
    frame = pd.DataFrame(rows)
    values = [column for column in frame if column != "method"]
    means = frame.astype(dict.fromkeys(values, float)).groupby("method")[values].mean()
    means = means.loc[[method for method in order if method in means.index]]
    return [{"method": method, **row} for method, row in means.to_dict("index").items()]


def _weights(inputs: ReportInputs) -> dict[str, dict[str, float]] | None:
    """Mean weight of each modality per type; ``None`` without a model or with one modality."""
    if inputs.result.model is None or isinstance(inputs.adata, AnnData):
        return None
    weights = inputs.result.model.get_modality_weights()
    if weights.shape[1] < 2:
        return None
    types = pd.Series(inputs.labels, index=inputs.adata.obs_names).loc[weights.index]
    return weights.groupby(types.to_numpy()).mean().to_dict("index")


def _splits(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every split once, with the number of cells that annotation was scored on."""
    out: dict[tuple, dict[str, Any]] = {}
    for record in records:
        key = (record["protocol"], record["seed"], record["rotation"])
        names = ("dataset", "protocol", "seed", "rotation", "held_out")
        row = out.setdefault(key, {name: record.get(name) for name in names} | {"scored": None})
        row["scored"] = row["scored"] or record["scores"].get("n_scored")
    order = {name: i for i, name in enumerate(natural({key[0] for key in out}))}
    return [out[key] for key in sorted(out, key=lambda key: (order[key[0]], *key[1:]))]


def _versions(records: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Versions of all records; where records differ, all that occur."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, number in record.get("versions", {}).items():
            found.setdefault(name, {})[str(number)] = None
    return {name: " and ".join(numbers) for name, numbers in found.items()}
