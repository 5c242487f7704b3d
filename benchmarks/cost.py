"""Seconds and peak memory of MoRE against scVI + scANVI: each in a fresh process, one after the other, same cores.

    python benchmarks/cost.py --data DATA [--dataset bm_vangalen] [--threads 1]

Writes ``results/cost.md``. A process counts from after the imports and the loading of the data; its memory is the peak
of the whole process, so both numbers include the same libraries and the same data.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

METHODS = ("more", "scanvi")


def measure(method: str, dataset: str, data: str, threads: int) -> dict[str, float]:
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    import scvi  # noqa: F401
    import torch

    from more_scvi.evaluation import get_method, load_dataset, make_tasks, run_task
    from more_scvi.model import MoRE  # noqa: F401

    torch.set_num_threads(threads)
    adata, known = load_dataset(dataset, data)
    task = next(make_tasks(adata, "S1", known=known, dataset=dataset))
    with tempfile.TemporaryDirectory() as cache:
        _, record = run_task(task, get_method(method), cache)
    return {
        "seconds": sum(record["seconds"].values()),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "trained": record["parameters"]["trained"],
        "frozen": record["parameters"]["frozen"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("MORE_DATA"), required="MORE_DATA" not in os.environ)
    parser.add_argument("--dataset", default="bm_vangalen")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    rows = {}
    for method in METHODS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows[method] = pool.submit(measure, method, arguments.dataset, arguments.data, arguments.threads).result()
    lines = [
        "# Cost",
        "",
        f"`python benchmarks/cost.py --dataset {arguments.dataset} --threads {arguments.threads}`.",
        "CPU seconds of set-up, features, training and embedding; peak memory of the whole process, with libraries and",
        "data.",
        "",
        "| method | CPU seconds | peak memory (GB) | trained parameters | frozen parameters |",
        "| --- | --- | --- | --- | --- |",
    ]
    names = {"more": "MoRE", "scanvi": "scVI + scANVI"}
    for method, row in rows.items():
        numbers = (f"{row['seconds']:.1f}", f"{row['peak_gb']:.2f}", f"{row['trained']:,}", f"{row['frozen']:,}")
        cells = (names[method], *numbers)
        lines.append(f"| {' | '.join(cells)} |")
    ratio = rows["scanvi"]["seconds"] / rows["more"]["seconds"]
    share = rows["more"]["trained"] / (rows["more"]["trained"] + rows["more"]["frozen"])
    lines += [
        "",
        f"MoRE takes 1/{ratio:.1f} of the time and trains {share:.1%} of what full fine-tuning would train.",
        "",
    ]
    (Path(__file__).parent / "results" / "cost.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
