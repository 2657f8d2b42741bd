"""The command rsseg: what it lists, what it starts, and the folder that `rsseg new` writes."""

import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_run import tiny
from tiny import CONFIGS

from rsseg.__main__ import main
from rsseg.commands import COMMANDS
from rsseg.config import entry
from rsseg.config.cli import compose
from rsseg.config.entry import ENTRY, invocation, own_configs, search_path


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["rsseg", *words])
    main()


def test_every_command_has_a_file_and_a_script():
    package = Path(entry.__file__).parents[1]
    assert {path.stem for path in (package / "commands").glob("[a-z]*.py")} == set(COMMANDS)
    scripts = {path.stem for path in (CONFIGS.parent / "scripts").glob("*.py") if not path.stem.startswith("bench")}
    assert scripts | {"train", "new", "reproduce"} == set(COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_the_help_of_a_command_names_its_settings(name, monkeypatch, capsys):
    call(monkeypatch, name, "--help")
    said = capsys.readouterr().out
    settings = vars(import_module(f"rsseg.commands.{name}").Arguments)["__dataclass_fields__"]
    for setting in set(settings) - {"overrides"}:
        assert f"{setting}=" in said


def test_what_is_no_command_is_told_from_what_is(monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"error: trian is no command.*did you mean 'train'"):
        call(monkeypatch, "trian")
    call(monkeypatch)
    said = capsys.readouterr().out
    assert all(f"rsseg {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_many_runs_are_asked_for_at_any_place(flag, tmp_path, monkeypatch):
    """Hydra's own parser takes no settings on both sides of a flag."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"error: loss=ce,seed=1: steps=-1 must be"):
        call(monkeypatch, "train", f"output={tmp_path}", "loss=ce,dice", flag, "seed=1,2", "steps=-1")


def test_importing_the_commands_does_not_import_torch():
    words = f"import sys, {', '.join(f'rsseg.commands.{name}' for name in COMMANDS)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], cwd=CONFIGS.parent, check=False).returncode == 0


def test_commands_are_named_as_they_are_typed_here(tmp_path, monkeypatch):
    monkeypatch.chdir(entry.CHECKOUT)
    assert [invocation("train"), invocation("compare")] == ["python train.py", "python scripts/compare.py"]
    monkeypatch.chdir(tmp_path)
    assert [invocation("train"), invocation("compare")] == ["rsseg train", "rsseg compare"]


def test_a_new_folder_is_found_where_one_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "new", "fields")
    assert "fields.yaml, then cd fields" in capsys.readouterr().out
    for name, fault in {"fields": "fields is there already", "inria": "dataset=inria is one that rsseg has"}.items():
        with pytest.raises(SystemExit, match=fault):
            call(monkeypatch, "new", name)
    monkeypatch.chdir(tmp_path / "fields")
    assert own_configs() == tmp_path / "fields" / "configs"
    config = compose(CONFIGS, ["dataset=fields", "dataset.classes=[crop]", *search_path(own_configs())])
    assert config.dataset.name == "fields"


def test_what_lies_in_a_folder_is_written_into_the_config(tmp_path, folder_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "new", "fields", f"root={folder_root}")
    written = OmegaConf.load(tmp_path / "fields/configs/dataset/fields.yaml")
    assert written.name == "fields"
    assert written.source.root == str(folder_root)


def test_a_config_that_is_not_read_is_named(tmp_path, monkeypatch, caplog):
    """Hydra takes rsseg's own file of a name before a user's."""
    own = tmp_path / "configs"
    (own / "loss").mkdir(parents=True)
    (own / "loss/focal.yaml").write_text("terms: {ce: {_target_: rsseg.losses.CrossEntropy}}")
    (own / "loss/mine.yaml").write_text("terms: {ce: {_target_: rsseg.losses.CrossEntropy}}")
    (own / "loss/dice.yaml").write_bytes((CONFIGS / "loss/dice.yaml").read_bytes())  # read or not, it says the same
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # it is named once
        config = compose(CONFIGS, ["loss=focal", *search_path(own_configs())])
    assert list(config.loss.terms) == ["focal"]
    assert [message.split(" is not read")[0] for message in caplog.messages] == [str(own / "loss/focal.yaml")]


@pytest.mark.parametrize("name", ["evaluate", "predict", "compare"])
def test_folders_that_a_shell_writes_behind_a_runs_are_answered_with_commas(name, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: b: write several folders as one word with commas: runs?=a,b$"):
        call(monkeypatch, name, f"{'runs' if name == 'compare' else 'run'}=a", "b")


@pytest.mark.parametrize(("word", "written"), [("overlap=8", "margin=8"), ("tile_size=512", "window=512")])
def test_a_setting_that_has_another_name_here_is_answered_with_it(word, written, monkeypatch):
    with pytest.raises(SystemExit, match=rf"^error: {word}: write {written}$"):
        call(monkeypatch, "predict", "run=a", "scene=b", word)
    with pytest.raises(SystemExit, match=rf"^error: {word}: there is no such setting"):  # an export has no windows to set
        call(monkeypatch, "export", "run=a", word)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_that_nobody_reads_to_the_end_ends_quietly(words):
    with subprocess.Popen([*ENTRY, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # before anything is printed
        assert process.stderr.read() == ""


@pytest.mark.parametrize("words", [(), ("a", "b"), ("9",), ("../up",)])
def test_a_name_that_can_not_be_one_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="error: one name is expected"):
        call(monkeypatch, "new", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_wheel_trains_from_any_folder_with_configs_of_ones_own(tmp_path):
    WheelBuilder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder  # noqa: N806 - a class
    list(WheelBuilder(str(CONFIGS.parent)).build(directory=str(tmp_path)))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    package, work = tmp_path / "site" / "rsseg", tmp_path / "work"
    (work / "configs/loss").mkdir(parents=True)
    (work / "configs/loss/mine.yaml").write_text((CONFIGS / "loss/ce.yaml").read_text())
    words = [word for word in tiny(tmp_path, "loss=mine", f"hydra.run.dir={tmp_path}/run") if word]
    command = [sys.executable, str(package / "__main__.py")]
    done = subprocess.run([*command, "train", *words], cwd=work, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/summary.json").is_file()
    assert ENTRY[1] != str(package / "__main__.py")
    said = subprocess.run([*command, "compare", "runs=nowhere"], cwd=work, capture_output=True, text=True, check=False).stderr
    assert said.startswith("error: ")


def test_what_the_image_copies_by_name_is_not_ignored():
    root = CONFIGS.parent
    lines = [line.split()[1:-1] for line in (root / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    allowed = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    named = {name for names in lines for name in names} - {"."}
    assert named <= allowed
    assert all((root / name).exists() for name in named)


def test_an_interrupt_ends_a_command_in_one_line(monkeypatch):
    def interrupt(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr("rsseg.commands.describe.run", interrupt)
    with pytest.raises(SystemExit, match=r"^interrupted$"):
        call(monkeypatch, "describe")
