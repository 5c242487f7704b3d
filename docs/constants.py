"""The table of constants that steer results, read from the code: the string below a constant says what it steers.

The string ends with ``Source:`` and one of: ``record`` and a file below ``benchmarks/results/``, ``paper`` and which,
or ``plain value, not tuned``: chosen by hand, no table vouches for it.
"""

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "more_scvi"
APART = ("cli", "diagnosis", "evaluation", "metrics", "pl", "pretraining", "report")
"""Folders whose constants do not touch what a model computes."""
STEERS_NOTHING = {
    *("FORMAT", "VERSION", "SEED", "SIZE", "N_PCS", "N_CONTEXT", "AVERAGE_TOTAL"),  # definitions
    *("BLOCK", "MANY_WEIGHTS", "BLOCK_VALUES", "CHUNK", "CELLS_PER_PASS", "TOKENS_PER_PASS", "HASH_ROWS"),  # speed
    *("CHECK_EVERY", "N_KEPT"),  # speed, too
    *("MAX_CELLS", "MOST_CELLS", "N_HELD_SECTIONS", "N_LINKED_GENES", "N_BATCH_AXES"),  # most that is looked at or kept
    *("OVERSAMPLING", "N_PASSES", "TIE", "LEAST_OPEN", "LARGEST", "MIN_LINKED", "LEAST_SIGNAL"),  # numerics
    *("PENALTIES", "N_FOLDS"),  # what cross-validation chooses among
    *("LOG_MAXIMUM", "MAX_MEAN_DEGREE", "LEAST_GENES", "FEW_GENES", "FEWEST_CELLS", "FEWEST_HELD"),  # checks
    *("MANY_BATCHES", "CELLS_PER_BATCH", "LEAST_SHARE", "PROBED", "EQUAL"),
    *("STALE", "MOST_BYTES", "MOST_TEXT", "MOST_LAYERS"),  # bounds of files
    *("DEPTH", "PROTEIN_DISPERSION", "GENE_LENGTH", "GENE_DISTANCE", "PEAK_WIDTH", "PEAK_STEP"),  # simulations
}
"""Constants that no result depends on; private ones, which begin with ``_``, must be such, too."""
SPECIAL = {
    "Few labels": ("annotate._self_training", "annotate._trust", "annotate._annotator.BELIEF"),
    "Batches without labels": (
        *("annotate._composition", "annotate._experts.UNSEEN_SHARE"),
        *("modalities.rna.SHALLOW_DEPTH", "modalities.rna.SHALLOW_CELL"),
    ),
    "No labels": ("base._clusters", "module._module.FROZEN_KEPT"),
    "Several modalities": (
        *("annotate._completion", "base._bridge", "base._shared_space", "model._more.MIN_LINKED_GENES"),
    ),
    "Chromatin": ("modalities.atac",),
    "Tissue": ("base._shares.NICHE_SHARE", "data._spatial", "module._module.CLOSED_GATE"),
    "Training inside the backbone": ("module._inside", "train._plan.TUNING"),
    "Other data": ("data._silent", "base._missing", "modalities._missing", "modalities._components"),
    "Queries that are added to a reference": ("annotate._statistics", "model._new_batches"),
    "Student": ("student",),
    "Map of the reference": ("model._reference_map",),
}
"""Heading → files or constants that count only there; all others count in every model."""
EVERY = "Every model"
INTRODUCTION = """# Constants

Numbers in the code that steer results, beside the arguments and their defaults; sizes of blocks, bounds of files and
limits of checks are not among them. The page is made from the code. A *record* names the table that the value rests on;
a *plain value, not tuned* was chosen by hand, and no table vouches for it. How values are chosen:
[Choosing defaults](evaluation.md#choosing-defaults); what the weights of the losses move is
[measured](../results/experiments.md).
"""
HEAD = """
| constant | value | what it steers, and its source |
| --- | --- | --- |
"""


def constants() -> list[tuple[str, str, str, str]]:
    """Dotted name, value, what it steers and source (empty if it has none) of every number in capital letters."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] in APART:
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, below in zip(body, [*body[1:], None], strict=True):
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None or not _numbers(node.value):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            if not all(name.isupper() and name[0] != "_" and name not in STEERS_NOTHING for name in names):
                continue
            text = below.value.value if _is_text(below) else ""
            what, _, source = " ".join(text.split()).partition("Source:")
            name = ".".join([*parts, ", ".join(names)])
            found.append((name, ast.unparse(node.value), what.strip(), source.strip().rstrip(".")))
    return found


def page() -> str:
    """The page."""
    sections: dict[str, list[str]] = {heading: [] for heading in (EVERY, *SPECIAL)}
    for name, value, what, source in constants():
        place, names = re.fullmatch(r"(.*?)\.([^.]+)", name).groups()  # two words, so that a narrow column breaks
        sections[where(name)].append(f"| `{names}` {place} | {value} | {what} *{source}* |\n")
    return INTRODUCTION + "".join(f"\n## {heading}\n{HEAD}{''.join(rows)}" for heading, rows in sections.items())


def where(name: str) -> str:
    """Heading of a constant."""
    found = [h for h, places in SPECIAL.items() if any(f"{name}.".startswith(f"{place}.") for place in places)]
    return found[0] if found else EVERY


def _numbers(node: ast.expr) -> bool:
    inner = [n for n in ast.walk(node) if isinstance(n, ast.Constant)]
    keys = {id(key) for n in ast.walk(node) if isinstance(n, ast.Dict) for key in n.keys}
    values = [n.value for n in inner if id(n) not in keys]
    plain = not any(isinstance(n, ast.Call | ast.Attribute | ast.Name | ast.JoinedStr) for n in ast.walk(node))
    return plain and bool(values) and all(type(value) in (int, float) for value in values)


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
