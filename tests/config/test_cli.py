"""The command line: help, one line for each mistake before torch is imported, and Hydra's own parts."""

import re
import resource
import subprocess
import sys

import pytest
from tiny import CONFIGS

from rsseg.config.cli import check_early, check_output, compose, help_text, own_part
from rsseg.config.entry import own_configs, search_path
from rsseg.config.schema import SCHEMAS, Config
from rsseg.config.words import AT_ONCE, ELSEWHERE, GONE, STEPS, SYNONYMS, choices, word_faults
from rsseg.contract import InputError


def said(*words, **options):
    """What a command line is refused with."""
    with pytest.raises(InputError) as caught:
        check_early(own_part(compose(CONFIGS, words, **options)))
    assert "+lr" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("lr=0.01", "write optimizer.lr=0.01"),
        ("+learning_rate=1e-3", "write optimizer.lr=1e-3"),
        ("batch=4", "write batch_size=4"),
        ("bs=4", "write batch_size=4"),
        ("crop_size=512", "write window=512"),
        ("patch_size=512", "write window=512"),
        ("encoder=resnet50", "write model.encoder=resnet50"),
        ("backbone=resnet50", "write model.encoder=resnet50"),
        ("model.backbone=resnet50", "write model.encoder=resnet50"),
        ("pretrained=true", "write model.weights=imagenet"),
        ("num_workers=8", "write workers=8"),
        ("residence=ram", "write cache=ram"),
        ("on_bad_tile=skip", "write on_bad_scene=skip"),
        ("overlap=16", "write margin=16"),
        ("gpus=2", "write trainer=ddp trainer.devices=2"),
        ("devices=2", "write trainer=ddp trainer.devices=2"),
        ("sampler=near_miss", "near_miss is called near_border now"),
        ("dataset.source.fold=2/5", "write dataset.fold=2/5"),
        ("dataset.folds=5", "write dataset.fold=2/5: the second of five"),
        ("+dataset.rgb.new=0", "adds to a value that is null"),
        ("~on_nonfinite", "a run needs it"),
        ("sampler=nan", "a choice is a name"),
        ("sampler=[uniform,1]", "a choice is a name"),
        (r"residence='\${x}'", "leave out the backslash"),
        ("loss.weight=2", "write loss.terms.<term>.weight=2"),
        ("model.steps=20", "write steps=20"),
        ("dataset.root=/data", "write dataset.source.root=/data"),
        ("max_steps=5", "write steps=5"),
        ("trainer.max_steps=5", "write steps=5"),
        ("step=20", "did you mean 'steps'?"),
        ("dataset.clases=[a]", "did you mean 'classes'?"),
        ("record.gains=true", "did you mean 'gain'?"),
        ("+los=dice", "did you mean 'loss'?"),
        ("xyzzy=1", "there is no such setting; python train.py --cfg job"),
        ("xyzzy", "write key=value"),
        ("loss=focal_dise", "did you mean 'focal_dice'?"),
        ("loss=ce_lovasz_levels", "ce_lovasz_levels is called ce_lovasz_binned now"),
        ("loss=lovasz_levels", "lovasz_levels is called lovasz_binned now"),
        ("+loss/term@loss.terms.x=lovasz_levels", "lovasz_levels is called lovasz_binned now"),
        ("loss.backend=reference", "this setting is gone"),
        ("+loss.backend=auto", "this setting is gone"),
        ("augment=[d4,noize]", "did you mean 'noise'?"),
        ("experiment=imbalance/focl", "did you mean 'imbalance/focal'?"),
        ("+loss/term@loss.terms.x=dise", "did you mean 'dice'?"),
        ("loss=ce,dice", "several values are several runs, add -m"),
        ("steps=many", "steps=many: Value 'many' of type 'str' could not be converted to Integer"),
        ("cache=tape", "expected one of [disk, ram, gpu]"),
        ("hydra.run.dirr=x", "hydra.run.dirr: there is no such setting"),
        ("+steps=3", "leave out the +"),
        ("~loss.terms.nothing", "does not exist"),
        ("dataset.source.root=/data/São Paulo", "write 'dataset.source.root=\"/data/São Paulo\"'"),
        ("dataset.source.root=/data/a=b", "write 'dataset.source.root=\"/data/a=b\"'"),
        ("dataset.classes=[água,terra]", 'write \'dataset.classes=["água","terra"]\''),
        ("dataset.source.values={Gebäude: 1, a: 2}", """write 'dataset.source.values=["Gebäude: 1","a: 2"]'"""),
        ('dataset.source.values={"Gebäude": 1, a: 2}', """write 'dataset.source.values=["Gebäude: 1","a: 2"]'"""),
        ("dataset.unlabelled={Köln*: [a]}", "a file of configs/"),
        ("dataset.source.cache=/tmp", "this setting is gone"),
        ("dataset.source.split={val: [2_10,1e3]}", "2_10 is read as the number 210"),
        ("dataset.source.split={val: [São Paulo]}", "write names in double quotes"),
        ("dataset.source.split={val: [a=b, c (1)], test: [d]}", "write names in double quotes"),
        ("dataset.source.split={validação: [a]}", "the keys of a mapping are letters from a to z"),
        ("dataset.source.group={city}", """write 'dataset.source.group="{city}"'"""),
    ],
)
def test_each_mistake_gives_one_line(word, advice):
    line = said(word)
    assert advice in line
    assert "\n" not in line


@pytest.mark.parametrize("word", ["epochs=3", "max_epochs=3", "trainer.max_epochs=3"])
def test_epochs_are_steps_here(word):
    assert "write steps=..." in said(word)
    assert "window * window * batch_size" in said(word)


def test_what_is_advised_exists():
    targets = [re.split("[,:]", target)[0] for target in ELSEWHERE.keys() - {STEPS, GONE, AT_ONCE}]
    keys = {word.partition("=")[0] for target in targets for word in target.split()}
    advised = [f"{key}=x" for key in keys if "<" not in key]
    assert word_faults(CONFIGS, advised) == {}
    known = {*Config.__dataclass_fields__, *(f"{node}.{key}" for node in SCHEMAS for key in SCHEMAS[node].__dataclass_fields__)}
    assert not SYNONYMS.keys() & known


def test_all_mistakes_are_told_together():
    lines = said("lr=1", "batch=3", "loss=dise").splitlines()
    assert lines[0] == "the command line can't be used:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  - lr=1", "  - batch=3", "  - loss=dise"]
    lines = said("window=100", "batch_size=0", "dataset=inria", "dataset.source.root=/nowhere").splitlines()
    assert len(lines) == 4
    assert "there is no folder /nowhere" in lines[-1]


@pytest.mark.parametrize("group", ["augment", "callbacks", "logger", "optimizer", "experiment", "hydra/launcher"])
def test_a_choice_of_null_is_refused_in_one_line(group):
    assert said(f"{group}=null") == f"{group}=null: a choice is a name: leave the word out, or write ~{group} for nothing"
    assert "a choice is a name" in said(f"{group}=null,d4", multirun=True)


def test_words_that_are_right_are_left_alone(tmp_path):
    right = ["loss=focal_dice", "loss.terms.dice.weight=2", "~loss.terms.focal", "+loss/term@loss.terms.tversky=tversky",
             "augment=[d4,noise]", "callbacks=none", "~augment", "optimizer.lr=3e-4", "trainer.devices=[1]",
             "hydra.run.dir=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/job_logging=none", "steps=10_000",
             "scheduler.schedulers=[{_target_: x}]", "dataset.args={root: a}", "model.encoder_args.drop_path_rate=0.1",
             "dataset.source.split={val: [\"2_10\", tile3_1, 3]}", "output=${oc.env:HOME}", "trust=[mine]"]  # fmt: skip
    assert word_faults(CONFIGS, right) == {}
    assert word_faults(CONFIGS, ["loss=ce,dice", "seed=1,2", "sweep=losses", "augment=[d4],[d4,noise]"], multirun=True) == {}
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/mine.yaml").write_text("terms: {dice: {_target_: rsseg.losses.Dice}}\n")
    config = compose(CONFIGS, ["loss=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert list(config.loss.terms) == ["dice"]


@pytest.mark.parametrize(
    ("word", "near"),
    [("loss=focaldice", "focal_dice"), ("dataset=dubay", "dubai"), ("loss=min", "mine"), ("dataset=north/tile", ""),
     ("+loss/term@loss.terms.x=owm", "own")],
)  # fmt: skip
def test_a_choice_is_looked_for_among_those_of_a_folder_of_ones_own(word, near, tmp_path, monkeypatch):
    """Where one works, and whether there is such a folder, changes nothing but the names that are there."""
    for name in ("loss/mine", "loss/term/own", "dataset/dubai", "dataset/north/tile"):
        (tmp_path / f"configs/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"configs/{name}.yaml").write_text("name: dubai\n")
    monkeypatch.chdir(tmp_path)
    words = [word, *search_path(own_configs())]
    if not near:
        assert compose(CONFIGS, words).dataset.name == "dubai"
        return
    line = said(*words)
    assert f"there is no such choice (did you mean '{near}'?); rsseg train --help lists all, and" in line
    assert "\n" not in line


FOREIGN = [
    "hydra/launcher=ray",
    "hydra/sweeper=optuna",
    "hydra/env=mine",
    "hydra/callbacks=mine",
    "hydra/job_logging=colorlog",
    "hydra.launcher._target_=os.system",
    "hydra.launcher._target_=hydra_plugins.evil.Launcher",
    "hydra.sweeper._target_=os.system",
    "hydra.launcher={_target_: os.system}",
    "+hydra.launcher.n_jobs={_target_: os.system, command: touch x}",
    "+hydra.launcher.n_jobs=${augment.d4}",
    "hydra.callbacks.sweep._target_=os.system",
    "+hydra.callbacks.x={_target_: os.system}",
    "+hydra.callbacks.x._target_=hydra.experimental.callbacks.PickleJobInfoCallback",
    "+hydra.callbacks.x={_target_: logging.FileHandler, filename: x}",
    "hydra.callbacks=${augment}",
    "+hydra.job_logging.handlers.x.class=os.system",
    "hydra.job_logging.handlers.console.stream=ext://os.environ",
    "+hydra.job_logging.formatters.x.class=subprocess.Popen",
    "hydra.hydra_logging.handlers=${augment}",
    "hydra.job_logging.handlers.file.class=logging.config.dictConfig",
]


@pytest.mark.parametrize("word", FOREIGN)
@pytest.mark.parametrize("multirun", [False, True])
def test_hydra_makes_its_own_parts_alone(word, multirun):
    line = said(word, multirun=multirun)
    assert "\n" not in line
    assert re.search("there are (basic|default)|there is no such setting|Hydra may use its own", line)


def test_a_factory_in_a_config_file_is_refused(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nhydra: {job_logging: {handlers: {x: {(): os.system, command: 'touch x'}}}}\n"
    (tmp_path / "experiment/received.yaml").write_text(text)
    line = said("experiment=received", f"hydra.searchpath=[file://{tmp_path}]")
    assert "hydra.job_logging.handlers.x.()=os.system: Hydra may use its own" in line


def command(*words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "train.py", *words], cwd=CONFIGS.parent, capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset=inria", "dataset.source.root=/nowhere"], "error: dataset.source: there is no folder /nowhere"),
        (["dataset.classes=[a,a,b,c,d]"], "names a class twice"),
        (["window=100"], "take 96 or 128"),
        (["loss=focal_dise"], "did you mean 'focal_dice'?"),
        (["--cfg", "job", "lr=0.01"], "write optimizer.lr=0.01"),
        (["sweep=losses"], "sweep=losses is many runs: add -m"),
        (["resume=/nowhere"], "/nowhere is no run folder"),
        (["--experimental-rerun", "x.pkl"], "not for rsseg"),
        (["-m", "hydra.launcher._target_=os.system"], "Hydra may use its own"),
    ],
)
def test_mistakes_are_told_before_torch_is_imported(words, message, tmp_path):
    done, seconds = command(*words, f"output={tmp_path}/out")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < 2
    assert not (tmp_path / "out").exists()


def test_help():
    done, seconds = command("--help")
    assert done.returncode == 0
    assert seconds < 2
    first, examples, *_ = done.stdout.split("\n\n")
    assert first.startswith("rsseg trains")
    assert examples.count("python train.py") == 3
    assert "[synthetic]" in done.stdout
    assert "[ce_dice]" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 132
    assert "_target_" not in done.stdout
    assert "== Configuration groups" not in done.stdout
    hydras, _ = command("--hydra-help")
    assert "--experimental-rerun" in hydras.stdout


@pytest.mark.parametrize("group", ["dataset", "model", "loss", "optimizer", "experiment", "sweep"])
def test_help_names_every_choice(group):
    text = help_text(CONFIGS).replace("[", "").replace("]", "").replace(",", " ").split()
    assert set(choices([CONFIGS], group)) <= set(text)
    assert {path.stem for path in (CONFIGS / group).glob("*.yaml")} <= set(choices([CONFIGS], group))


def test_a_list_that_the_shell_has_cut_at_a_space_is_to_be_quoted():
    first, second = word_faults(CONFIGS, ["dataset.classes=[land,", "water]"]).values()
    assert "cut it at a space: quote the whole argument, as in 'dataset.classes=[a, b]'" in first
    assert "'water]' is not understood" in second


def test_an_output_that_is_no_folder_is_one_line_before_hydra_makes_it(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        with pytest.raises(InputError, match=r"file.* can't be written .*output=... is where runs are written"):
            check_output(tmp_path / folder)
    check_output(tmp_path / "new/below")
    assert not (tmp_path / "new").exists()


EVIL = {
    "experiment/evil.yaml": "trust: [evilmod]",
    "experiment/hidden.yaml": 'trust: [evilmod]\nhydra: {overrides: {task: ["trust=[evilmod]"]}}',
    "sweep/evil.yaml": 'hydra: {sweeper: {params: {trust: "[evilmod]"}}}',
}


@pytest.mark.parametrize("word", ["experiment=evil", "experiment=hidden", "sweep=evil"])
def test_trust_is_typed_never_said_by_a_file(tmp_path, word):
    for name, content in EVIL.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# @package _global_\n{content}\n")
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    with pytest.raises(InputError, match="trust is set by a file"):
        compose(CONFIGS, [word, searched], multirun=word.startswith("sweep"))
    if word == "experiment=evil":
        assert compose(CONFIGS, [word, searched, "trust=[mine]"]).trust == ["mine"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("overlap: 16", "there is no setting overlap: write margin"), ("model: {oo: 1}", "there is no setting oo")],
)
def test_a_setting_in_a_users_file_that_is_none_any_more(tmp_path, content, said):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(f"# @package _global_\n{content}\n")
    with pytest.raises(InputError) as told:
        compose(CONFIGS, ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert str(told.value) == f"In 'experiment/mine': {said}"
