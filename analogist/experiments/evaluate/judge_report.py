"""The judge's part of a report: who judged and how it was asked, agreement with a reference, corrected means."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from analogist.disk.foreign import encoded
from analogist.disk.writing import atomic_write
from analogist.experiments.decide.agreement import FEWEST, agreement, corrected_mean
from analogist.experiments.evaluate.judge import FOLDER, NAMES, Judged, Judging
from analogist.experiments.evaluate.judge_wording import CRITERIA

FILE = "judge.md"
Scores = Mapping[tuple[str, str], float]  # (input, seed) -> score


def write_judge(folder: Path, judging: Judging | None, judged: Judged | None) -> None:
    """Writes judge.md, which the report takes in; removes one of an earlier run where nobody judges now."""
    if judging is None or judged is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    atomic_write(folder / FILE, encoded("\n".join(judge_lines(judging, judged)).rstrip() + "\n"))


def read_judge(folder: Path) -> list[str]:
    """The lines of judge.md, none where there is none."""
    path = folder / FILE
    return [*path.read_text(encoding="utf-8").splitlines(), ""] if path.is_file() else []


def judge_lines(judging: Judging, judged: Judged) -> list[str]:
    """The judge's part of the report, as lines of Markdown."""
    lines = ["## Judge", ""]
    lines += [f"- {name}: {one['model']} at {one.get('endpoint', 'this machine')}" for name, one in judged.identities.items()]
    lines += [
        f"- scale: {judging.scale.low} to {judging.scale.high}; every answer is in `{FOLDER}/` as it came", "", "Asked, with one picture: "
        "the grid with B' painted, letters and arrows:", "", f"> {judging.scale.question()}", "",
    ]  # fmt: skip
    ours = judged.scores.get(NAMES[0], {})
    references = {"people": judging.labels, "the second judge": judged.scores.get(NAMES[1], {})}
    for who, reference in references.items():
        if any(reference.values()):
            lines += _beside(who, ours, reference)
    return lines


def _beside(who: str, ours: Mapping[str, Scores], reference: Mapping[str, Scores]) -> list[str]:
    """Agreement by picture, and corrected means by input: the images of one input are not independent."""
    heads = ("criterion", "pictures", "equal", "at most 1 apart", "weighted kappa", "judge minus reference", "judge's mean over inputs",
             "corrected, 95 %")  # fmt: skip
    lines = [f"Against {who}:", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for criterion in CRITERIA:
        said, true = ours.get(criterion, {}), reference.get(criterion, {})
        seen = {name for name, _ in said.keys() & true.keys()}
        # Of an input with a reference only the pictures that have one, so that both means are of the same pictures.
        judge = _by_input({key: score for key, score in said.items() if key in true or key[0] not in seen})
        found, mean = agreement(said, true), corrected_mean(judge, _by_input({key: true[key] for key in said.keys() & true.keys()}))
        if found is None:
            lines.append(f"| {criterion} | 0 |" + " |" * (len(heads) - 2))
            continue
        kappa = "" if found.kappa is None else f"{found.kappa:.2f}"
        corrected = f"fewer than {FEWEST} inputs" if mean is None else f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f})"
        cells = [criterion, str(found.count), f"{found.equal:.2f}", f"{found.near:.2f}", kappa, f"{found.bias:+.2f}"]
        cells += [f"{sum(judge.values()) / len(judge):.2f}", corrected]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines, "", f"Corrected: what the mean of {who} over all judged inputs would be, w mean_N(f) + mean_n(y - w f), with f the judge, "
        "y the reference, n inputs with both, N with the judge alone, w = cov(y, f) / ((1 + n / N) var(f)) in 0..1; Student's t interval "
        "(Angelopoulos et al. 2023, prediction-powered inference; PPI++).", "",
    ]  # fmt: skip


def _by_input(scores: Scores) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for (name, _), score in scores.items():
        found.setdefault(name, []).append(score)
    return {name: sum(values) / len(values) for name, values in found.items()}


def unknown_labels(judging: Judging, rows: Sequence[dict]) -> list[str]:
    """A note on labels of pictures that are not in this evaluation."""
    there = {(row["input"], str(row["seed"])) for row in rows}
    lost = sorted({key for of in judging.labels.values() for key in of} - there)
    return [f"labels: {len(lost)} are of pictures that are not here, first {lost[0][0]} with seed {lost[0][1]}"] if lost else []
