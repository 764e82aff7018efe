"""Vision-language models as judges of painted pictures, through the prompter's endpoint code; their answers are kept as they came.

Place in the flow: after the painting and the other metrics. A judge that cannot be asked leaves everything else as it is.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from analogist.config import read_json
from analogist.disk.foreign import encoded, naming
from analogist.disk.writing import atomic_write, output_folder
from analogist.experiments.design.inputs import dealt
from analogist.experiments.design.levels import StudyError
from analogist.experiments.evaluate.judge_wording import CRITERIA, Scale
from analogist.experiments.execute.jobs import Plan
from analogist.experiments.execute.store import Store
from analogist.grid.marks import draw_marks
from analogist.grid.prompt_grid import PromptGrid
from analogist.prompting.asking import ASKED_SIZE, AskingPrompter
from analogist.prompting.cache import content_key
from analogist.prompting.chat import OpenAIPrompter
from analogist.prompting.prompts import NoAnswer, PromptError
from analogist.prompting.scores import Scores, read_scores

FOLDER = "judgements"
MAX_TOKENS = 1000  # of an answer, which reasons before it scores
GIVES_UP = 3  # failures in a row after which a judge counts as down
SECOND_KEY = "SECOND_JUDGE_API_KEY"  # the first judge's key is not sent to another address
NAMES = ("judge", "second_judge")  # first part of the metrics' names


@dataclass(frozen=True)
class Judging:
    """Who judges and on which scale. judges: one or two. second: how many inputs the second judge sees, dealt evenly over the tasks.

    labels: people's scores, criterion -> (input, seed) -> score.
    """

    judges: tuple[AskingPrompter, ...]
    scale: Scale = field(default_factory=Scale)
    second: int = 50
    labels: Mapping[str, Mapping[tuple[str, str], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What judges said. rows: of the table. scores: by judge (NAMES), criterion and (input, seed).

    identities: model and settings, by judge. notes: what was not judged, and why.
    """

    rows: list[dict]
    scores: dict[str, dict[str, dict[tuple[str, str], float]]]
    identities: dict[str, dict]
    notes: list[str]


def judge_from(text: str, position: int, first_url: str | None = None, *, timeout: float = 120.0, retries: int = 4) -> OpenAIPrompter:
    """A judge from MODEL, MODEL@URL or @URL (the only model served there). position: 0 or 1, the first or second judge.

    The first judge's key is OPENAI_API_KEY; a second one at another address takes SECOND_JUDGE_API_KEY. Raises PromptError.
    """
    match = re.fullmatch(r"(.*?)(?:@(https?://.+))?", text.strip())
    assert match is not None, "any text has this form"
    url = match[2] or os.environ.get("OPENAI_BASE_URL") or None
    same = position == 0 or url is None or url.rstrip("/") == first_url
    key = None if same else os.environ.get(SECOND_KEY) or "none"
    return OpenAIPrompter(match[1] or None, base_url=url, api_key=key, max_tokens=MAX_TOKENS, cache=False, timeout=timeout, retries=retries)


def judged_picture(grid: PromptGrid, cell: Image.Image) -> Image.Image:
    """The whole grid with B' painted, letters and arrows, as a judge sees it: at its own size, but at least 512 px wide."""
    whole, at = grid.image, grid.boxes()["B'"]
    whole.paste(cell, at[:2])
    if whole.width < ASKED_SIZE:
        rows = max(round(ASKED_SIZE * whole.height / whole.width / grid.rows), 8) * grid.rows
        grid = grid.with_size((rows, ASKED_SIZE))
        whole = whole.resize((ASKED_SIZE, rows))
    draw_marks(whole, grid.boxes(without_border=True), grid.boxes())
    return whole


def judge_pictures(judging: Judging, plan: Plan, store: Store, rows: Sequence[dict], *, progress: bool = True) -> Judged:
    """Asks every judge about every painted picture that it has not judged yet; what was said is in `judgements/`, one file per picture.

    rows: of the table, one of each picture is the pattern for the judges' rows.
    """
    out = Judged([], {}, {}, [])
    first: dict[str, dict] = {}
    for row in rows:
        if row["picture"]:
            first.setdefault(row["job"], row)
    grids = {job.key: job.grid for job in plan.jobs}
    seen = [one.name for one in dealt(plan.study.resolved)[: judging.second]]
    for name, asker in zip(NAMES, judging.judges, strict=False):
        try:
            identity = {"judge": asker.kind, **asker.identity()}
        except PromptError as error:
            out.notes.append(f"{name} was not asked: {_about_judge(error)}")
            continue
        out.identities[name] = identity
        wanted = [row for row in first.values() if name == NAMES[0] or row["input"] in seen]
        scores: dict[str, dict[tuple[str, str], float]] = {criterion: {} for criterion in CRITERIA}
        failures, failed = 0, ""
        unread: list[str] = []
        for row in tqdm(wanted, desc=f"{name} {identity['model']}", unit="picture", disable=not progress):
            picture = judged_picture(grids[row["job"]], store.picture(store.entries[row["job"]]))
            try:
                found = judgement(asker, identity, judging.scale, picture, row["job"], store.folder / FOLDER, ask=failures < GIVES_UP)
                failures = 0 if failures < GIVES_UP else failures
            except PromptError as error:
                failures, failed = failures + 1, _about_judge(error)
                continue
            if found is None:  # the judge is down, and this picture was not judged before
                continue
            if found.why is not None:
                unread.append(f"{row['input']}: {found.why}")
            for criterion in CRITERIA:
                value = found.values.get(criterion)
                said = {"metric": f"{name}_{criterion}", "value": value, "better": "higher", "network": str(identity["model"])}
                out.rows.append(row | said | {"note": found.why or ""})
                if value is not None:
                    scores[criterion][row["input"], str(row["seed"])] = value
        out.scores[name] = scores
        done = len(scores["accuracy"])
        if failed:
            out.notes.append(f"{name} {identity['model']}: {done} of {len(wanted)} pictures judged, then: {failed}; run again to continue")
        if unread:
            out.notes.append(f"{name} {identity['model']}: {len(unread)} answers hold no scores, first {unread[0]}")
    return out


def judgement(
    asker: AskingPrompter, identity: dict, scale: Scale, picture: Image.Image, job: str, folder: Path, *, ask: bool = True
) -> Scores | None:
    """The scores of one picture: from the kept answers, else asked for, the second time with the stricter wording.

    None where there is no kept answer and ask is False. Raises PromptError where the judge cannot be asked.
    """
    questions = (scale.question(), scale.stricter())
    key = content_key(picture.tobytes(), questions[0], identity)
    path = folder / f"{key[:32]}.json"
    if path.is_file():
        with naming(path, StudyError):
            return _last(read_json(path)["answers"], scale)
    if not ask:
        return None
    answers: list[dict[str, str]] = []
    for question in questions:
        try:
            answer = asker.answer(picture, question).encode("utf-8", "replace").decode()
            answers.append({"question": question, "answer": answer, "time": _now()})
        except NoAnswer as error:
            answers.append({"question": question, "answer": "", "none": str(error), "time": _now()})
        if _last(answers, scale).why is None:
            break
    found = _last(answers, scale)
    data = {"format": 1, "job": job, "judge": identity, "scale": [scale.low, scale.high], "answers": answers}
    data |= {"scores": found.values, "why": found.why}
    atomic_write(output_folder(folder) / path.name, encoded(json.dumps(data, indent=1, ensure_ascii=False) + "\n"))
    return found


def _about_judge(error: PromptError) -> str:
    """The prompter's message with the judge's arguments in it."""
    text = str(error)
    for theirs, ours in (("--prompter-model", "the model in --judge"), ("--base-url", "the address in --judge"),
                         ("--prompter-timeout", "--judge-timeout")):  # fmt: skip
        text = text.replace(theirs, ours)
    return text


def _last(answers: Sequence[dict], scale: Scale) -> Scores:
    """What the last answer says."""
    last = answers[-1]
    if "none" in last:
        return Scores({}, last["none"])
    return read_scores(last["answer"], CRITERIA, low=scale.low, high=scale.high)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
