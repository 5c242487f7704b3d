"""The table of constants that steer results, read from the code: the string below a constant says what it steers.

The string ends with ``Source:`` and one of: ``record`` and a file below ``benchmarks/results/``, ``paper`` and which,
``plain value``, a round number that nothing was fitted to, or ``not recorded``: chosen without a table that was kept.
"""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "more_scvi"
APART = ("cli", "diagnosis", "evaluation", "metrics", "pl", "pretraining", "report")
"""Folders whose constants do not touch what a model computes."""
STEERS_NOTHING = {
    *("FORMAT", "VERSION", "SEED", "SIZE", "N_PCS", "N_CONTEXT"),  # definitions
    *("BLOCK", "BLOCK_VALUES", "CHUNK", "INFERENCE_BATCH", "CELLS_PER_PASS", "CHECK_EVERY", "MAX_CELLS"),  # speed
    *("OVERSAMPLING", "N_PASSES", "TIE", "LEAST_OPEN"),  # numerics
    *("LOG_MAXIMUM", "MAX_MEAN_DEGREE", "LEAST_GENES", "FEW_GENES", "FEWEST_CELLS", "FEWEST_HELD"),  # checks
    *("DEPTH", "PROTEIN_DISPERSION", "GENE_LENGTH", "GENE_DISTANCE", "PEAK_WIDTH", "PEAK_STEP"),  # simulations
}
"""Constants that no result depends on; private ones, which begin with ``_``, must be such, too."""
INTRODUCTION = """# Constants

Numbers in the code that steer results, beside the arguments and their defaults. The page is made from the code. A
*record* names the table that the value rests on; a *plain value* is a round number that nothing was fitted to; what is
*not recorded* was chosen before tables were kept, and is to be measured or made plain. How values are chosen:
[Choosing defaults](evaluation.md#choosing-defaults).

| constant | value | what it steers | source |
| --- | --- | --- | --- |
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
    rows = (" | ".join((f"`{name}`", *rest)) for name, *rest in constants())
    return INTRODUCTION + "".join(f"| {row} |\n" for row in rows)


def _numbers(node: ast.expr) -> bool:
    inner = [n for n in ast.walk(node) if isinstance(n, ast.Constant)]
    keys = {id(key) for n in ast.walk(node) if isinstance(n, ast.Dict) for key in n.keys}
    values = [n.value for n in inner if id(n) not in keys]
    plain = not any(isinstance(n, ast.Call | ast.Attribute | ast.Name | ast.JoinedStr) for n in ast.walk(node))
    return plain and bool(values) and all(type(value) in (int, float) for value in values)


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
