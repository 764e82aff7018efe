"""Files and names from other systems, and output that can't be written: everything is read, or is one line that names the file."""

import copy
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analogist.cli.main import ESCAPED, main
from analogist.config import AnalogistConfig, read_json
from analogist.disk.foreign import composed, decoded, encoded, existing, naming
from analogist.experiments.design.inputs import Input, beside, input_name
from analogist.experiments.design.levels import StudyError
from analogist.experiments.design.study import Study
from analogist.experiments.evaluate.data import CATEGORIES, DataError, find_tasks, read_csv, task_inputs
from analogist.experiments.evaluate.evaluation_report import report_folder
from analogist.experiments.execute.store import Store, read_entries
from analogist.experiments.execute.table import read_table
from analogist.explore.source import from_folder
from analogist.grid.pictures import save_png
from analogist.run.output import Repeat, remove_stale
from analogist.weights.configs import given
from tests.test_cli import fails

NFC, NFD = "café", unicodedata.normalize("NFD", "café")
MARKED = {
    "none": lambda text: text.encode(), "UTF-8": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16 as Windows writes it": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "UTF-16 big": lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-32": lambda text: text.encode("utf-32"),
}  # fmt: skip


def picture(path: Path, side: int = 32, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with captured maps."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main(["run", "--example", "recolour", "--steps", "2", "--explore", "1", "--out", str(out), "--quiet"]) == 0
    return out


# --- byte-order marks


@pytest.mark.parametrize("mark", MARKED)
def test_json_is_read_with_and_without_a_byte_order_mark(mark: str, tmp_path: Path, run_folder: Path) -> None:
    def marked(name: str, data: dict) -> Path:
        (tmp_path / name).write_bytes(MARKED[mark](json.dumps(data, ensure_ascii=False)))
        return tmp_path / name

    assert read_json(marked("any.json", {"käse": "猫"})) == {"käse": "猫"}
    assert AnalogistConfig.load(marked("c.json", {"sampling": {"steps": 4}})).sampling.steps == 4
    assert Study.load(marked("s.json", {"name": "s", "inputs": "examples", "factors": {"sac.scale": [1.0]}})).name == "s"
    shutil.copy(run_folder / "input.png", tmp_path)
    assert Repeat(marked("run.json", json.loads((run_folder / "run.json").read_text()))).prompts()
    assert given(marked("unet.json", {"unet": {"attention_head_dim": 8}})).part("unet") == {"attention_head_dim": 8}


@pytest.mark.parametrize("mark", MARKED)
def test_lists_and_prompt_lines_are_read_with_and_without_a_mark(mark: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "l.csv").write_bytes(MARKED[mark]("a\ta_prime\tb\tprompt\na.png\ta.png\tb.png\tein rotes Boot, groß\n"))
    assert [one.prompt for one in read_csv(tmp_path / "l.csv")] == ["ein rotes Boot, groß"]


def test_text_with_half_characters_is_written_as_escapes_that_json_reads_back() -> None:
    for text in ("plain", "käse 猫", "caf\udce9", "half \ud83d of one", "\udcff\udc80"):
        assert json.loads(encoded(json.dumps({text: [text]}, ensure_ascii=False))) == {text: [text]}
        assert decoded(encoded("x" + text)).isascii() or "\ud83d" not in text
    assert os.fsencode(json.loads(encoded(json.dumps(os.fsdecode(b"caf\xe9"), ensure_ascii=False)))) == b"caf\xe9"


# --- names in NFC and NFD


def test_names_in_either_form_of_unicode_are_found(tmp_path: Path) -> None:
    for on_disk, asked in ((NFC, NFD), (NFD, NFC), (NFD, NFD)):
        folder = tmp_path / f"{len(on_disk)}{len(asked)}"
        there = picture(folder / f"ordner_{on_disk}" / f"{on_disk}.png")
        assert existing(folder / f"ordner_{asked}" / f"{asked}.png") == there
    assert existing(tmp_path / "none" / "x.png") == tmp_path / "none" / "x.png"
    assert existing("nul\0l") == Path("nul\0l")


@pytest.mark.parametrize(("on_disk", "said"), [(NFC, NFD), (NFD, NFC)])
def test_lists_and_studies_find_pictures_in_either_form(on_disk: str, said: str, tmp_path: Path) -> None:
    for name in ("a", "ap", "b", "truth"):
        picture(tmp_path / f"{name}{on_disk}.png")
    columns = "a,a_prime,b,b_prime\n"
    (tmp_path / "l.csv").write_text(columns + f"a{said}.png,ap{said}.png,b{said}.png,truth{said}.png\n", encoding="utf-8")
    (one,) = read_csv(tmp_path / "l.csv")
    assert one.name == f"0001-b{NFC}" and one.truth is not None
    entry = beside([{"a": [f"a{said}.png"], "b": f"b{said}.png"}], tmp_path)[0]
    assert Path(entry["a"][0]).exists() and Path(entry["b"]).exists()


@pytest.mark.parametrize("forms", [(NFC, NFD, NFC), (NFD, NFC, NFC), (NFC, NFC, NFD), (NFD, NFD, NFC)])
def test_the_published_layout_is_read_in_either_form(forms: tuple[str, str, str], tmp_path: Path) -> None:
    masked, whole, said = forms
    folder, tasks = next(iter(CATEGORIES.items()))
    for task in tasks:
        # "cafz" sorts before "café" composed and behind it decomposed; the lines are in the order of composed names.
        for name in ("cafz", "{}", "{}s"):
            picture(tmp_path / folder / f"{task}_masked" / f"{name.format(masked)}.png", 64)
            picture(tmp_path / folder / task / f"{name.format(whole)}.png", 64)
        lines = "".join(f"{name.format(said)}.png\tprompt {k}\n" for k, name in enumerate(("cafz", "{}", "{}s")))
        (tmp_path / folder / f"{task}_gpt4_out.txt").write_text(lines, encoding="utf-8")
    task = find_tasks(tmp_path)[0]
    found = task_inputs(task)
    assert [(one.name.split("/")[1], one.prompt) for one in found] == [("cafz", "prompt 0"), (NFC, "prompt 1"), (f"{NFC}s", "prompt 2")]
    assert all(one.truth is not None for one in found)


@pytest.mark.parametrize("stem", ["b#1", "b+c", "写真", "ภาพเรือ", NFD, "..", "x" * 300, "a/b", " ", "", "caf\udce9", "b&c;d", "नाव", "."])
def test_any_file_name_makes_the_name_of_an_input(stem: str) -> None:
    from analogist.grid.prompt_grid import PromptGrid

    grid = PromptGrid(*[np.zeros((8, 8, 3), np.uint8)] * 3)
    for name in (f"0001-{input_name(stem)}", input_name(stem), f"colorization/{input_name(stem)}"):
        one = Input(name, grid)
        assert len(f"{one.file_name}_9223372036854775807_0123456789ab.png".encode()) <= 255
        assert "/" not in one.file_name


# --- lists of any separator

PLAIN = [["a", "a_prime", "b", "prompt"], ["a.png", "ap.png", "b.png", "a red boat"]]
LISTS: dict[str, str] = {
    "commas": "a,a_prime,b,prompt\na.png,ap.png,b.png,a red boat\n",
    "semicolons": "a;a_prime;b;prompt\r\na.png;ap.png;b.png;a red boat\r\n",
    "tabs": "a\ta_prime\tb\tprompt\na.png\tap.png\tb.png\ta red boat\n",
    "bars": "a|a_prime|b|prompt\na.png|ap.png|b.png|a red boat\n",
    "a line that says the separator": "sep=;\r\na;a_prime;b;prompt\r\na.png;ap.png;b.png;a red boat\r\n",
    "a quoted line that says it": '"sep=\t"\na\ta_prime\tb\tprompt\na.png\tap.png\tb.png\ta red boat\n',
    "blanks around": "a , a_prime , b , prompt\na.png , ap.png , b.png , a red boat\n",
    "quotes": '"a";"a_prime";"b";"prompt"\n"a.png";"ap.png";"b.png";"a red boat"\n',
    "an empty row at the end": "a,a_prime,b,prompt\na.png,ap.png,b.png,a red boat\n,,,\n",
    "empty rows between": "\n;;;\na;a_prime;b;prompt\n\n;;;\na.png;ap.png;b.png;a red boat\n;;;\n\n;;;\n",
    "empty columns at the end": "a,a_prime,b,prompt,,\na.png,ap.png,b.png,a red boat,,\n",
    "old line ends": "a,a_prime,b,prompt\ra.png,ap.png,b.png,a red boat\r",
    "no line end": "a,a_prime,b,prompt\na.png,ap.png,b.png,a red boat",
    "another order": "prompt;b;a;a_prime\na red boat;b.png;a.png;ap.png\n",
    "one column named only": "b;a;a_prime;prompt\nb.png;a.png;ap.png;a red boat\n;;\n",
}  # fmt: skip


@pytest.mark.parametrize("form", LISTS)
def test_lists_are_read_as_every_spreadsheet_writes_them(form: str, tmp_path: Path) -> None:
    for k, name in enumerate(("a", "ap", "b")):
        picture(tmp_path / f"{name}.png", seed=k)
    (tmp_path / "l.csv").write_bytes(LISTS[form].encode())
    (one,) = read_csv(tmp_path / "l.csv")
    assert one.prompt == "a red boat"
    cells = one.grid.with_size(64).cells(without_border=True)
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("RGB").resize(cells["A"].size))
    assert np.array_equal(np.asarray(cells["A"]), expected)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_in_quoted_fields_are_text(mark: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    prompt = 'red, then; "blue"\tand\nmore'
    text = io.StringIO()
    csv.writer(text, delimiter=mark).writerows([["a", "a_prime", "b", "prompt"], *[["a.png", "a.png", "a.png", prompt]] * 2])
    (tmp_path / "l.csv").write_bytes(text.getvalue().encode())
    assert [one.prompt for one in read_csv(tmp_path / "l.csv")] == [prompt, prompt]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a;a_prime\nx;y\n", "missing b"), ("a,a_prime,b,colour\n", "unknown 'colour'"), ("", "missing a, a_prime, b"), (";;\n", "missing"),
        ("a;a;a_prime;b\n1;2;3;4\n", "present twice: a"), ("a;a_prime;b\n", "no lines below"), ("a;a_prime;b\n;;\n", "no lines below"),
        ("a;a_prime;b\nx;y\n", "line 2: a, a_prime and b are required"), ("\na;a_prime;b\n\nx;y;z;more\n", "line 4: .*as many fields"),
        ("a;a_prime;b\nno.png;no.png;no.png\n", "line 2: A: .*no such file"), ("a,a_prime,b\n\0,x,y\n", "line 2|not a CSV"),
        ("sep=;\n", "missing"), ("a\tb\n", "missing a_prime"), ("not a list at all", "missing"),
    ],
)  # fmt: skip
def test_a_list_that_is_none_is_one_line_that_names_file_and_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode())
    with pytest.raises(DataError, match=says) as error:
        read_csv(tmp_path / "l.csv")
    assert str(tmp_path / "l.csv") in str(error.value)


# --- content that is not what it should be

ODD = [None, True, -1, 0.5, 1e300, "x", "", "\ud83d", [], [None], [[]], {}, {"x": {}}, "9" * 400, 10**30]


def mutations(data: object) -> Iterator[object]:
    """The data with one part, at any depth, replaced by something else or left out."""

    def places(part: object, path: tuple = ()) -> Iterator[tuple]:
        if path:
            yield path
        for key in part if isinstance(part, dict) else range(min(len(part), 2)) if isinstance(part, list) else ():
            yield from places(part[key], (*path, key))

    for number, path in enumerate(places(data)):
        for odd in [*ODD[number % 3 :: 3], *([{}, None, "x"] if number % 2 else [[], -1])]:
            changed = copy.deepcopy(data)
            part = changed
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = odd
            yield changed
        changed = copy.deepcopy(data)
        part = changed
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        yield changed


def settles(read: Callable[[], object], path: Path) -> None:
    """It reads, or it is a ValueError of one line that names the file."""
    try:
        read()
    except ValueError as error:
        assert str(path) in str(error), error


CONFIG = AnalogistConfig().to_json()
CONFIG["sac"]["placement"] = {
    "any": [{"layers": [3, 4], "steps": [0]}, {"of": {"sites": ["up.*"]}, "except": {"layers": [9], "heads": [0]}}]
}


def test_a_configuration_of_odd_content_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    for data in mutations(CONFIG):
        path.write_text(json.dumps(data))
        settles(lambda: AnalogistConfig.load(path), path)


STUDY = {
    "name": "s", "inputs": [{"example": "recolour"}, {"lab": "recolour", "count": 1}],
    "factors": {"sac.scale": [1.0, 2.0], "windows": ["all", [0]]},
    "seeds": [42], "images": 1, "size": [64, 64], "metrics": ["mse"], "base": CONFIG,
    "hypotheses": [{"claim": "c", "metric": "mse", "variant": {"sac.scale": "1.0"}, "expect": "lower"}],
}  # fmt: skip


def test_a_study_of_odd_content_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for data in mutations(STUDY):
        path.write_text(json.dumps(data))
        settles(lambda: Study.load(path), path)


def test_a_record_of_odd_content_is_one_line_that_names_it(run_folder: Path, tmp_path: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    record["attention_forms"] = dict(list(record["attention_forms"].items())[:2])
    for name in ("input.png", "maps.safetensors", *(path.name for path in run_folder.glob("*.png"))):
        shutil.copy(run_folder / name, tmp_path / name)
    path = tmp_path / "run.json"
    for data in mutations(record):
        path.write_text(json.dumps(data))
        settles(lambda: Repeat(path), path)
    path.write_text(json.dumps(record | {"seeds": 3}))
    with pytest.raises(ValueError, match=str(path)):
        from_folder(tmp_path)
    path.write_text(json.dumps(record | {"config": {"sac": 3}}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        from_folder(tmp_path)


ENTRY = {"key": "k", "picture": None, "sha256": None, "record": {}, "measures": {}, "notes": {}, "failed": None, "seconds": 1.0}


def test_a_commit_of_odd_content_is_one_line_that_names_it(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.write_study({"name": "caf\udce9"}, fixed={})
    path = tmp_path / "s/groups/g.json"
    for data in mutations({"format": 1, "group": "g", "jobs": [ENTRY]}):
        path.write_text(json.dumps(data))
        settles(lambda: read_entries(tmp_path / "s"), path)


HEAD = b"metric,value,input,seed\n"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", HEAD + b"mse,x,i,1\n", HEAD + b"mse\n", b"\0,\0\n", b"a,b\n1,2\n", b"\xe9,b\n"])
def test_tables_of_odd_content_are_one_line_that_names_them(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    settles(lambda: read_table(tmp_path), tmp_path / "table.csv")
    (tmp_path / "summary.csv").write_bytes(b"level,name,metric,value,inputs,better\ntask,x,mse,y,z,lower\n" if content else content)
    settles(lambda: report_folder(tmp_path), tmp_path)


def test_errors_of_content_name_the_file_once(tmp_path: Path) -> None:
    for error in (KeyError("x"), TypeError("odd"), IndexError(), AttributeError("a"), OverflowError(), ValueError("v"), StudyError("s")):
        with pytest.raises(ValueError) as found, naming(tmp_path / "f"):
            raise error
        assert str(found.value).count(str(tmp_path / "f")) == 1
    with pytest.raises(StudyError, match="^already /f named$"), naming("/f"):
        raise StudyError("already /f named")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"nul", b"\xff\xfe", b'{"a": ' + b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xe9", b"\0"]
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "ablate", "explore", "evaluate"])
def test_no_content_of_a_file_ends_a_command_in_a_traceback(command: str, content: bytes, tmp_path: Path, capsys) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    arguments = {
        "run": ["run", "--example", "recolour", "--config", str(path), "--out", str(tmp_path / "o")],
        "ablate": ["ablate", str(path), "--dry-run"],
        "explore": ["explore", str(tmp_path)],
        "evaluate": ["evaluate", str(path), "--out", str(tmp_path / "o")],
    }[command]
    assert str(tmp_path) in fails(capsys, arguments)


def test_an_error_that_no_check_foresaw_is_one_line_too(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png")

    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted\nfault")

    monkeypatch.setattr("analogist.cli.grid.grid_from_arguments", breaks)
    argv = ["grid", "--a", str(path), "--a-prime", str(path), "--b", str(path), "--out", str(tmp_path / "o")]
    error = fails(capsys, argv)
    assert "ZeroDivisionError" in error and "planted fault" in error and str(path) in error
    monkeypatch.setenv("ANALOGIST_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(argv)


# --- a finished run keeps its record


def test_a_run_of_files_that_are_not_utf8_keeps_its_record_and_can_be_repeated(run_folder: Path, tmp_path: Path) -> None:
    names = {}
    for name in ("a", "a_prime", "b"):
        names[name] = tmp_path / os.fsdecode(f"{name}".encode() + b"\xe9.png")
        picture(names[name], 64)
    out = tmp_path / os.fsdecode(b"out\xe9")
    argv = ["run", "--a", str(names["a"]), "--a-prime", str(names["a_prime"]), "--b", str(names["b"]), "--prompt", "red"]
    assert main([*argv, "--steps", "2", "--out", str(out), "--quiet"]) == 0
    record = read_json(out / "run.json")
    assert record["inputs"]["b"] == str(names["b"]) and Path(record["inputs"]["b"]).exists()
    assert main(["run", "--config", str(out / "run.json"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again/b_prime_42.png").read_bytes() == (out / "b_prime_42.png").read_bytes()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_output_that_cannot_hold_a_path_costs_nothing(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png")
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    for folder in ("输出", os.fsdecode(b"caf\xe9"), "half \ud83d".encode("utf-8", "replace").decode()):
        argv = ["grid", "--a", str(path), "--a-prime", str(path), "--b", str(path), "--out", str(tmp_path / folder)]
        assert main(argv) == 0
        assert (tmp_path / folder / "input_marked.png").exists()
    assert stream.errors == "strict"  # as it was
    said = raw.getvalue()
    assert b"caf\xe9/input.png" in said  # the bytes of the name, as a shell needs them
    assert ("输出".encode() if encoding == "utf-8" else b"\\u8f93\\u51fa") in said


def test_what_an_encoding_lacks_is_escaped() -> None:
    assert "a\u8f93\udce9\ud83d".encode("ascii", ESCAPED) == b"a\\u8f93\xe9\\ud83d"


@pytest.mark.parametrize("output", ["closed pipe", "full disk"])
def test_a_run_whose_output_cannot_be_written_keeps_its_record(output: str, tmp_path: Path) -> None:
    if output == "full disk" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-u", "-m", "analogist", "run", "--example", "recolour", "--steps", "2", "--quiet"]
    argv = [*command, "--out", str(tmp_path / "o")]
    if output == "full disk":
        with open("/dev/full", "wb") as full:
            done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    else:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE)
        os.close(write)
        assert done.returncode == 0
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    assert Repeat(tmp_path / "o/run.json").prompts()


@pytest.mark.parametrize("flag", ["--prompt", "--negative-prompt", "--prompt-suffix"])
def test_a_prompt_of_half_characters_is_one_line_before_anything_is_written(flag: str, tmp_path: Path, capsys) -> None:
    more = [] if flag == "--prompt" else ["--prompt", "x"]
    error = fails(capsys, ["run", "--example", "recolour", flag, "caf\udce9", *more, "--out", str(tmp_path / "o"), "--quiet"])
    assert "is not valid Unicode text" in error and not list(tmp_path.glob("o/b_prime*"))


def test_a_study_with_a_prompt_of_half_characters_names_file_and_input(tmp_path: Path, capsys) -> None:
    study = {"name": "s", "inputs": [{"example": "recolour", "prompt": "a \ud83d boat"}], "factors": {"sac.scale": [1.0]}}
    (tmp_path / "s.json").write_text(json.dumps(study))
    error = fails(capsys, ["ablate", str(tmp_path / "s.json"), "--out", str(tmp_path / "o")])
    assert str(tmp_path / "s.json") in error and "recolour" in error


# --- files without an end, files and texts beyond measure

READ_AS_TEXT = {
    "a prompt file": ["run", "--example", "recolour", "--prompt-file", "{}"],
    "a configuration": ["run", "--example", "recolour", "--config", "{}"],
    "a list": ["run", "--list", "{}"],
    "a study": ["ablate", "{}"],
    "a checkpoint's config": ["weights", "inspect", str(Path(__file__).parent / "parity" / "checkpoint"), "--config", "{}"],
}


@pytest.mark.parametrize("kind", ["no end", "large"])
@pytest.mark.parametrize("what", READ_AS_TEXT)
def test_a_file_without_an_end_or_of_no_plausible_size_is_one_line_that_names_it(what: str, kind: str, tmp_path: Path, capsys) -> None:
    path = Path("/dev/zero")
    if kind == "large":
        path = tmp_path / ("x.csv" if what == "a list" else "x.json" if "config" in what or what == "a study" else "x.txt")
        with path.open("wb") as file:
            file.truncate(65 * 2**20)
    argv = [word.format(path) for word in READ_AS_TEXT[what]]
    error = fails(capsys, [*argv, *([] if argv[0] == "weights" else ["--out", str(tmp_path / "o")])])
    assert str(path) in error and not list(tmp_path.glob("o/*.png"))


def test_a_prompt_beyond_any_length_is_one_line_that_shows_its_beginning(tmp_path: Path, capsys) -> None:
    (tmp_path / "p.txt").write_text("short\n" + "red boat " * 1_200_000)
    call = ["run", "--example", "recolour", "--out", str(tmp_path / "o"), "--quiet"]
    error = fails(capsys, [*call, "--prompt-file", str(tmp_path / "p.txt")])
    assert f"{tmp_path / 'p.txt'}: line 2 has 10,800,000 characters" in error and "'red boat red" in error and len(error) < 500
    error = fails(capsys, [*call, "--prompt", "x" * 100_001])
    assert "100,001 characters, at most 100,000" in error and len(error) < 500


def test_a_long_prompt_is_cut_with_a_warning_of_one_short_line(tmp_path: Path, capsys) -> None:
    call = ["run", "--example", "recolour", "--steps", "1", "--out", str(tmp_path / "o"), "--quiet"]
    assert main([*call, "--prompt", "boat " * 10_000]) == 0
    said = capsys.readouterr().err
    assert "10000 tokens, 75 fit; cut off: 'boat boat" in said and len(said) < 600


# --- a folder that holds another run


def test_a_folder_of_another_run_is_left_with_what_the_new_record_lists(run_folder: Path, tmp_path: Path, capsys) -> None:
    out = shutil.copytree(run_folder, tmp_path / "out")
    save_png(Image.new("RGB", (8, 8)), out / "b_prime_a-red-boat_3.png", {"seeds": [3]})
    save_png(Image.new("RGB", (8, 8)), out / "grid_7.png", {"seeds": [7]})
    mine = [picture(out / "b_prime_9.png"), picture(out / "holiday.png"), out / "notes.txt", out / "maps.txt"]
    for path in mine[2:]:
        path.write_text("mine")
    assert main(["run", "--example", "swap", "--steps", "2", "--seed", "5", "--images", "2", "--out", str(out), "--quiet"]) == 0
    note = capsys.readouterr().err
    assert str(out) in note and "held another run" in note
    for name in ("b_prime_42.png", "grid_42.png", "b_prime_a-red-boat_3.png", "grid_7.png", "look.html", "maps.safetensors"):
        assert not (out / name).exists() and name in note
    record = read_json(out / "run.json")
    new = ["input.png", "grid_5.png", "b_prime_5.png", "grid_6.png", "b_prime_6.png"]
    assert record["files"] == new
    assert {path.name for path in out.iterdir()} == {*new, "run.json", *(path.name for path in mine)}


def test_the_same_run_again_removes_nothing_and_says_nothing(run_folder: Path, tmp_path: Path, capsys) -> None:
    out = shutil.copytree(run_folder, tmp_path / "out")
    capsys.readouterr()
    assert main(["run", "--example", "recolour", "--steps", "2", "--explore", "1", "--out", str(out), "--quiet"]) == 0
    assert "another run" not in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {path.name for path in run_folder.iterdir()}


def test_only_what_a_run_wrote_is_removed(tmp_path: Path) -> None:
    kept = [picture(tmp_path / name) for name in ("b_prime_1.png", "grid_x.png", "sketch_1.png", "input.png")]
    (tmp_path / "grid_3.png").mkdir()
    save_png(Image.new("RGB", (8, 8)), tmp_path / "grid_2.png", {"seeds": [2]})
    assert remove_stale(tmp_path, []) == ["grid_2.png"]
    assert all(path.exists() for path in kept) and composed(NFD) == NFC
