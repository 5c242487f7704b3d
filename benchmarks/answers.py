"""The page of answers: each a sentence that a rule makes from the numbers, so that it stays true when they change."""

from __future__ import annotations

import numpy as np
from catalogue import BACKBONES, COLUMNS, DATASETS, REGIMES, SHORT, named
from frame import markdown
from gathered import OURS, Results, interval, number, probability, signed

from more_scvi.evaluation._compare import TIE, Comparison

LOSS = 0.01
"""A row counts as lost if MoRE is further behind the best peer."""
JUDGED = ("annotation", "LR", "CiLISI", "structure")
"""Figures that a loss term may be kept for; the dimension is shown, but more is not always better."""


def answers(results: Results) -> str:
    """The whole page."""
    parts = [
        "# Answers",
        "Every sentence on this page is made by a rule from the result files. A difference is called *better* or "
        "*worse* if its 95 % interval, from resampling whole data sets, excludes zero; *level* if it is below "
        f"{number(TIE)} in the mean; otherwise there is *no reliable difference*. Rows are data sets × protocols; one "
        f"is level if the difference is below {number(TIE)}. Only splits that both methods have are compared. Peers "
        "that were trained for less than their default epochs, as their names say, enter no sentence.",
        "## Does the pre-trained backbone help?",
        _backbone(results),
        "## Which parts of the loss earn their place?",
        _losses(results),
        "## Where does MoRE lose, and to whom?",
        _defeats(results),
        "## Does it mix batches without bending the data?",
        _mixing(results),
        "## Do the controls behave?",
        _controls(results),
    ]
    return "\n\n".join(parts) + "\n"


def say(found: Comparison | None, subject: str, other: str) -> str:
    """The comparison as a sentence without its full stop."""
    if found is None or not found.n_rows:
        return f"{subject} against {other}: not measured yet"
    verdict, gain = found.verdict(), found.difference
    if verdict == "level":
        claim = f"{subject} is level with {other} ({signed(gain)}"
    elif verdict == "not shown":
        claim = f"no reliable difference between {subject} and {other} ({signed(gain)}"
    else:
        claim = f"{subject} is **{verdict}** than {other} by {number(abs(gain))} in the mean ("
    return f"{claim.removesuffix('(')}{_evidence(found, bare=not claim.endswith('('))}"


def _evidence(found: Comparison, bare: bool) -> str:
    won, tied, lost = found.tally()
    rows = f"won {won}, level {tied}, lost {lost} of {found.n_rows} row{'s' * (found.n_rows != 1)}"
    certain = "too few data sets for an interval" if found.interval is None else f"95 % {interval(found)}"
    return f"{', ' if bare else '('}{certain}; {rows})"


def _backbone(results: Results) -> str:
    lines, rows, missing = [], [], []
    for regime, metric, belongs in REGIMES:
        found = results.compare_all(BACKBONES, metric, belongs)
        if not found:
            missing.append(regime)
            continue
        said = [say(found.get(name), "pre-training", words) for name, words in BACKBONES.items()]
        lines.append(f"- **{capital(regime)}**: {'; '.join(said)}.")
        for name, of in found.items():
            row = {"regime": regime, "without": BACKBONES[name], "figure": COLUMNS[metric], "rows": of.n_rows}
            row |= {"Δ": signed(of.difference), "95 %": interval(of), "p": probability(of), "r": number(of.effect, 2)}
            for extra in ("LR", "CiLISI", "structure"):
                more = results.compare(name, extra, belongs)
                row[f"Δ {COLUMNS[extra]}"] = signed(None if more is None else more.difference)
            rows.append(row)
    lines += [f"- Not measured yet: {'; '.join(missing)}."] if missing else []
    note = (
        "MoRE minus MoRE with that backbone in its place, on the same splits; p is Wilcoxon's over rows, r its effect "
        "size (1: every row in favour)."
    )
    return "\n".join(lines) + (f"\n\n{note}\n\n{markdown(rows)}" if rows else "")


def _losses(results: Results) -> str:
    lines, rows = [], []
    for name in results.variants:
        if name in BACKBONES:
            continue
        found = {metric: results.compare(name, metric) for metric in (*JUDGED, "dimension")}
        if found["annotation"] is None:
            continue
        if name.startswith(f"{OURS}:no-"):
            lines.append(f"- {_term(name, {m: c for m, c in found.items() if c is not None})}")
        row = {"variant": f"`{name}`", "rows": found["annotation"].n_rows, "splits": len(found["annotation"].splits)}
        for metric, of in found.items():
            text = "–" if of is None else signed(of.difference, 1 if metric == "dimension" else 3)
            shown = of is not None and of.verdict() in ("better", "worse") and text != ".0"
            row[f"Δ {COLUMNS[metric]}"] = f"**{text}**" if shown else text
        rows.append(row)
    if not rows:
        return "Not measured yet."
    head = "\n".join(lines) if lines else "Terms that are left out one at a time: not measured yet."
    note = (
        "MoRE minus the variant: positive is in favour of MoRE as it is. Bold: the interval excludes zero. Variants "
        "that are not called `no-` change a setting or leave data out."
    )
    return f"{head}\n\n{note}\n\n{markdown(rows)}"


def _term(name: str, found: dict[str, Comparison]) -> str:
    """What a loss term does, from MoRE minus the variant that lacks it."""
    judged = {metric: of for metric, of in found.items() if metric in JUDGED}
    raises = [f"{COLUMNS[m]} by {number(c.difference)}" for m, c in judged.items() if c.verdict() == "better"]
    lowers = [f"{COLUMNS[m]} by {number(-c.difference)}" for m, c in judged.items() if c.verdict() == "worse"]
    quiet = [COLUMNS[m] for m, c in judged.items() if c.verdict() in ("level", "not shown")]
    parts = [f"raises {' and '.join(raises)}"] if raises else []
    parts += [f"lowers {' and '.join(lowers)}"] if lowers else []
    parts += [f"no reliable effect on {', '.join(quiet)}"] if quiet else []
    worth = "**not shown to earn its place**" if not raises else "**a trade**" if lowers else "**earns its place**"
    return f"`{name.removeprefix(f'{OURS}:no-')}` {worth}: {'; '.join(parts)} ({found['annotation'].n_rows} rows)."


def _defeats(results: Results) -> str:
    """The best peer of a row is picked with hindsight, which is hard on MoRE where many peers are close together."""
    lines, rows = [], []
    for metric in ("annotation", "novelty", "rare", "pearson", "FOSCTTM"):
        best = results.best_peers(metric)
        if best.empty:
            lines.append(f"- **{COLUMNS[metric]}**: not measured yet.")
            continue
        won, lost = int((best["gain"] > LOSS).sum()), int((best["gain"] < -LOSS).sum())
        say_mean = f"{signed(best['gain'].mean())} in the mean"
        n_rows = f"{len(best)} row{'s' * (len(best) != 1)}"
        lines.append(
            f"- **{COLUMNS[metric]}**: against the best peer of each of {n_rows}, MoRE is ahead by more than "
            f"{number(LOSS, 2)} in {won}, within it in {len(best) - won - lost}, behind in {lost} ({say_mean})."
        )
        for row in best[best["gain"] < -LOSS].itertuples():
            rows.append((row.gain, metric, row))
    if not rows:
        return "\n".join(lines)
    rows.sort(key=lambda item: item[0])
    table = [
        {
            "behind by": number(-gain),
            "data set": row.dataset,
            "protocol": row.protocol,
            "figure": COLUMNS[metric],
            "MoRE": number(row.ours),
            "best": number(row.other),
            "which": f"`{row.best}`",
            "splits": row.n_splits,
        }
        for gain, metric, row in rows
    ]
    return "\n".join(lines) + f"\n\nEvery row that is lost by more than {number(LOSS, 2)}:\n\n" + markdown(table)


def _mixing(results: Results) -> str:
    lines, rows = [], []
    for other in results.peers:
        mixing, structure = (results.compare(other, metric) for metric in ("CiLISI", "structure"))
        if mixing is None or structure is None:
            continue
        rows.append(
            {
                "against": f"`{named(other)}`",
                "rows": mixing.n_rows,
                "Δ CiLISI": signed(mixing.difference),
                "95 % (CiLISI)": interval(mixing),
                "Δ structure": signed(structure.difference),
                "95 % (structure)": interval(structure),
            }
        )
        mixes, keeps = mixing.verdict(), structure.verdict()
        if mixes == keeps and mixes in ("better", "worse") and other not in SHORT:
            lines.append(f"- `{other}`: MoRE is {mixes} at both.")
    if not rows:
        return "Not measured yet."
    mixed, kept = results.values(OURS, "CiLISI"), results.values(OURS, "structure")
    head = (
        f"MoRE reaches a CiLISI of {number(mixed.mean())} (mean of {len(mixed)} rows, {number(mixed.min())} to "
        f"{number(mixed.max())}; 1 is as mixed as by chance) at a structure of {number(kept.mean())} "
        f"({number(kept.min())} to {number(kept.max())}; 1 is unchanged)."
    )
    sure = "\n".join(lines) or "It is reliably better or worse at both than no other method."
    return f"{head}\n\n{sure}\n\n{markdown(rows)}"


def _controls(results: Results) -> str:
    lines = [_one_hot(results), _leak(results), *(_chance(results, name) for name in ("random", "shuffled"))]
    return "\n".join(f"- {line}" for line in lines)


def _one_hot(results: Results) -> str:
    structure = results.values("onehot-LR", "structure")
    if structure.empty:
        return "`onehot-LR`: not measured yet."
    fine = structure.mean() < 0.2
    mine = results.compare("onehot-LR", "structure")
    assert mine is not None
    text = (
        f"`onehot-LR` holds nothing but the class: structure {number(structure.mean())} in the mean of "
        f"{len(structure)} rows, MoRE {number(mine.rows['ours'].mean())}; {_as(fine)}."
    )
    novelty, purity = results.values("onehot-LR", "novelty_kNN"), results.compare("onehot-LR", "purity")
    if novelty.empty or purity is None:
        return f"{text} Unseen types: not measured yet."
    fails = abs(novelty.mean() - 0.5) < 0.1
    return (
        f"{text} Unseen types: by distances in the embedding its AUROC is {number(novelty.mean())} (chance .500), the "
        f"purity of a new type {number(purity.rows['other'].mean())} (MoRE {number(purity.rows['ours'].mean())}); "
        f"{_as(fails and purity.difference > 0)}."
    )


def _leak(results: Results) -> str:
    found = results.against_best("annotation", ours="LEAK")
    if found is None:
        return "`LEAK`: not measured yet."
    return (
        f"`LEAK`, which was given the hidden labels, is ahead of the best peer of each row by "
        f"{number(found.difference)} {_evidence(found, bare=False)}; {_as(found.rows['difference'].min() > 0)}."
    )


def _chance(results: Results, name: str) -> str:
    """Macro-F1 at most that of guessing, 1 / types, plus a margin; everything else at its own chance."""
    scores = results.values(name, "LR")
    known = scores[[dataset in DATASETS for dataset in scores.index.get_level_values(0)]]
    if known.empty:
        return f"`{name}`: not measured yet."
    chance = np.array([1 / DATASETS[dataset].types for dataset in known.index.get_level_values(0)])
    inside = (known.to_numpy() <= chance + 0.05).sum()
    text = (
        f"`{name}`: macro-F1 {number(known.mean())} where guessing gives at most {number(chance.mean())}; at chance "
        f"(within .05) in {inside} of {len(known)} rows"
    )
    fine = inside == len(known)
    for metric, middle, words in (("novelty_kNN", 0.5, "novelty AUROC"), ("FOSCTTM", 0.5, "FOSCTTM")):
        values = results.values(name, metric)
        if not values.empty:
            text += f"; {words} {number(values.mean())} (chance {number(middle)})"
            fine &= bool(abs(values.mean() - middle) < 0.05)
    structure = results.values(name, "structure")
    fine &= bool(abs(structure.mean()) < 0.05)
    return f"{text}; structure {number(structure.mean())} (chance .000); {_as(fine)}."


def _as(fine: bool) -> str:
    return "as it must be" if fine else "**not as it must be**"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]
