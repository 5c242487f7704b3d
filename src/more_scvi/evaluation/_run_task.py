"""One method on one task: its result, and the record of scores, cost and what it was made with."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from more_scvi.evaluation.methods._method import Given, Method, Result, get_method

from ._evaluate import score_task
from ._fingerprint import method_fingerprint, settings
from ._store import commit, split_digest, versions
from ._tasks import Task


def run_task(
    task: Task, method: Method, cache_dir: str | os.PathLike | None = None, with_scib: bool = False
) -> tuple[Result, dict[str, Any]]:
    """Run one method on one task and score it.

    Parameters
    ----------
    task
        See :func:`~more_scvi.evaluation.make_tasks`. The method receives it without hidden labels.
    method
        The method; only one that declares ``sees_hidden`` is given all labels.
    cache_dir, with_scib
        As for :func:`run`.

    Returns
    -------
    The method's result and a JSON-serialisable record of its scores and cost.

    Examples
    --------
    >>> task = next(make_tasks(adata, "S1"))  # doctest: +SKIP
    >>> result, record = run_task(task, get_method("pca"))  # doctest: +SKIP
    """
    if isinstance(method, str):
        method = get_method(method)
    if not isinstance(task, Task) or not isinstance(method, Method):
        wrong, wanted = (method, "method") if isinstance(task, Task) else (task, "task")
        how = {"task": "one of evaluation.make_tasks(data, protocol)", "method": "evaluation.get_method(name)"}[wanted]
        raise TypeError(f"{wanted} is a {type(wrong).__name__}; give {how}.")
    task.prepare()
    split = task.split
    given = Given(
        task.given(method.sees_hidden),
        split.seed,
        None if cache_dir is None else Path(cache_dir),
        task.given_query(),
        task.counterparts(),
    )
    with _memory() as memory:
        result = method(given)
    scores, types = score_task(task, result, with_scib)
    record = {
        **{key: getattr(split, key) for key in ("dataset", "protocol", "seed", "rotation", "held_out")},
        "split": split.name,
        "split_digest": split_digest(split),
        "method": method.name,
        "settings": settings(method),
        "fingerprint": method_fingerprint(method, task.data),
        "seeded": method.seeded,
        "scores": {key: _number(value) for key, value in scores.items()},
        "per_type": types,
        "seconds": {key: round(value, 3) for key, value in result.seconds.items()},
        "wall_seconds": {key: round(value, 3) for key, value in result.wall_seconds.items()},
        "peak_memory": memory[0],
        "parameters": result.parameters,
        "n_latent": None if result.z is None else int(result.z.shape[1]),
        "n_cells": int(task.hidden.size),
        "notes": result.notes,
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return result, record


def _number(value: float | None) -> float | None:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else round(value, 4)


@contextmanager
def _memory(interval: float = 0.05):
    """Growth of the resident memory of this process in bytes, sampled in a thread; ``None`` without psutil."""
    try:
        import psutil
    except ImportError:
        yield [None]
        return
    process = psutil.Process()
    before = process.memory_info().rss
    growth, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.is_set():
            growth[0] = max(growth[0], process.memory_info().rss - before)
            time.sleep(interval)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield growth
    finally:
        stop.set()
        thread.join()
