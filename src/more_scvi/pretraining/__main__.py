"""Make the weights of ``more-mini``: ``python -m more_scvi.pretraining --help``."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ._markers import marker_sets
from ._pool import read_pool
from ._programs import fit_front
from ._train import PretrainSettings, pretrain
from ._views import make_views

logger = logging.getLogger("more_scvi")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the pool, fit the linear front, corrupt the pool, train the transformer, write the weights folder."""
    parser = argparse.ArgumentParser(prog="python -m more_scvi.pretraining", description=main.__doc__)
    parser.add_argument("--pool", type=Path, required=True, help="folder with the .h5ad files of the pool")
    parser.add_argument("--annotation", type=Path, required=True, help="folder with gene and orthologue tables")
    parser.add_argument("--out", type=Path, required=True, help="weights folder to write")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint file (default: OUT/checkpoint.pt)")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of the transformer (default: 3000)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--genes", type=int, default=16_000, help="size of the vocabulary (default: 16000)")
    parser.add_argument("--views", type=int, default=8, help="corrupted views of a cell, even (default: 8)")
    parser.add_argument("--components", type=int, default=64, help="SVD components among the programs (default: 64)")
    parser.add_argument("--markers", type=int, default=60, help="most genes of a cluster's set (default: 60)")
    parser.add_argument("--features", type=int, default=192, help="width of the cell feature (default: 192)")
    parser.add_argument("--tokens", type=int, default=24, help="tokens the features are cut into (default: 24)")
    parser.add_argument("--width", type=int, default=64, help="width of a token in the transformer (default: 64)")
    parser.add_argument("--layers", type=int, default=3, help="layers of the transformer (default: 3)")
    parser.add_argument("--hold-out", nargs="*", default=[], metavar="STUDY", help="studies to leave out entirely")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    pool = read_pool(args.pool, args.annotation, n_genes=args.genes)
    if args.hold_out:
        pool = pool.of_studies(args.hold_out, drop=True)
    logger.info("Pool: %d cells of %d studies, %d genes.", len(pool.study), len(pool.studies), len(pool.vocabulary))
    backbone = fit_front(
        pool, marker_sets(pool, args.markers), n_components=args.components, n_features=args.features, seed=args.seed,
        n_tokens=args.tokens, d_model=args.width, n_layers=args.layers,
    )  # fmt: skip
    trained = pretrain(
        pool,
        make_views(pool, backbone, n_views=args.views, seed=args.seed),
        backbone,
        checkpoint=args.checkpoint or args.out / "checkpoint.pt",
        n_steps=args.steps,
        resume=args.resume,
        settings=PretrainSettings(seed=args.seed),
    )
    trained.save(args.out)
    logger.info("Wrote %s (%d weights, %s).", args.out, trained.n_parameters(), trained.fingerprint()[:12])


if __name__ == "__main__":
    main()
