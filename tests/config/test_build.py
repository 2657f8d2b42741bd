import pytest
from tiny import compose

from rsseg.assembly import check_machine, make_setup
from rsseg.config.arguments import parse
from rsseg.config.build import OPTIMIZER, SOURCE, TERM, build, faults, locate
from rsseg.config.naming import folder_name
from rsseg.contract import InputError


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", r"a loss of rsseg\.losses or torch\.nn or .* or monai\.losses is expected$"),
        ("mine.Loss", r"a loss of rsseg\.losses or .* is expected; if mine is code that you trust, add trust=\[mine\]$"),
        ("rsseg.data.scene.os.system", r"a loss of rsseg\.losses or .* is expected"),
        ("torch.nn.Linear", r"is not a loss: .* derives from torch\.nn\.Module and lies in torch\.nn\.modules\.loss"),
        ("torch.optim.SGD", r"a loss of rsseg\.losses or .* is expected$"),
        ("rsseg.losses.Dise", "did you mean 'Dice'"),
        ("rsseg.losses.nowhere.Thing", "can't be imported"),
        ("rsseg.losses.composite.torch.save", r"is not a loss: a class that derives from rsseg\.losses\.Term is expected"),
        ("rsseg.losses", "is not a loss"),
        ("rsseg.losses._Term", "no private name"),
    ],
)
def test_targets_of_another_kind(target, message):
    with pytest.raises(InputError, match=message):
        locate(target, "loss.terms.x", TERM)


def test_faults_are_collected():
    node = {"_target_": "rsseg.losses.Focal", "gama": 1, "task": "binary"}
    assert [f.split(":")[0] for f in faults(node, "loss.terms.focal", TERM, given=("task",))] == [
        "loss.terms.focal.gama",
        "loss.terms.focal.task is set by rsseg",
    ]
    assert "did you mean 'gamma'" in faults(node, "loss.terms.focal", TERM, given=("task",))[0]
    term = {"_target_": "rsseg.losses.Focal", "weight": 1, "wieght": 2}
    (fault,) = faults(term, "loss.terms.focal", TERM, given=("task",), beside=("weight",))
    assert "no parameter 'wieght' (did you mean 'weight'?)" in fault
    missing = faults({"_target_": "rsseg.data.files.Files", "image": "", "mask": ""}, "dataset.source", SOURCE)
    assert missing == ["dataset.source.root is missing: Files needs it"]


def test_build_says_where():
    with pytest.raises(InputError, match=r"optimizer: torch\.optim\.AdamW refused its arguments: .*-1"):
        build({"_target_": "torch.optim.AdamW", "lr": -1}, "optimizer", OPTIMIZER, params=[])


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["+loss.terms.dice.smoth=2", "+optimizer.beta=1", "+trainer.devces=2"],
         ["loss.terms.dice.smoth", "did you mean 'smooth'", "optimizer.beta", "did you mean 'betas'", "trainer.devces"]),
        (["window=100", "margin=90", "batch_size=0"], ["window=100", "take 96 or 128", "margin=90", "batch_size=0"]),
        (["loss=bce"], ["loss.terms.bce", "multiclass"]),
        (["loss.terms.dice.weight=-1"], ["-1"]),
        (["loss.terms.dice.weight=0", "loss.terms.ce.weight=0"], ["no term has a weight at the first step"]),
        (["loss.terms.dice.start=0.3", "loss.terms.ce.start=0.1"], ["no term has a weight at the first step"]),
        (["loss.terms.dice.start=30"], ["start of the term 'dice'", "from 0 to 1"]),
        (["loss.terms.dice.strat=0.3"], ["did you mean 'start'"]),
        (["loss.terms.ce.class_weights=[1,2]"], ["2", "5"]),
        (["loss.terms.ce.class_weights=frequency"], ["inverse_frequency"]),
        (["loss=focal", "loss.terms.focal.gamma=two"], ["gamma", "two"]),
        (["model.encoder=resnet19"], ["resnet19", "did you mean"]),
        (["dataset=folder"], ["dataset.classes is not set"]),
        (["dataset.task=binary"], ["a binary task has one class"]),
        (["dataset.classes=[true,b,c,d,e]"], ["dataset.classes holds True: YAML takes yes, no", "in quotes"]),
        (["dataset.palette=['#000000']"], ["has 1 colours, but 5"]),
        (["dataset.palette=['#gggggg','#000000','#000000','#000000','#000000']"], ["#gggggg is no colour"]),
        (["trainer.devices=2"], ["take trainer=ddp"]),
        (["callbacks=lr_finder", "scheduler=one_cycle"], ["callbacks.lr_finder with", "OneCycleLR", "take scheduler=cosine"]),
        (["+trainer.max_steps=2"], ["max_steps is set by rsseg"]),
        (["augment=scale_crop", "augment.scale_crop.scale=[2,1]"], ["augment.scale_crop", "the lower number"]),
        (["callbacks=early_stopping", "callbacks.early_stopping.mode=up"], ["callbacks.early_stopping", "up"]),
        (["callbacks=ema", "callbacks.ema.decai=1"], ["did you mean 'decay'"]),
        (["scheduler=cosine_warmup", "scheduler.schedulers=[{_target_: torch.optim.lr_scheduler.LinearLR, total_iter: 3}]"],
         ["scheduler.schedulers[0].total_iter", "did you mean 'total_iters'"]),
        (["model.freeze=[head]", "model.dropout=1"], ["model.freeze=['head']", "model.dropout=1"]),
        (["+los=dice", "+model.encodr=resnet18"], ["los: there is no", "did you mean 'loss'", "model.encodr", "'encoder'"]),
        (["callbacks=ema", "callbacks.ema=null"], ["callbacks.ema has no _target_"]),
        (["dataset.rgb=[1,2]"], ["dataset.rgb=[1, 2]", "null: the first three"]),
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/mask/iou"], ["did you mean 'val/iou'?"]),
        (["scheduler.T_max=0"], ["can't make a step", "zero"]),
        (["scheduler=cosine_warmup", "scheduler.milestones=[]"], ["can't be resolved"]),
        (["scheduler=cosine_warmup", "scheduler.milestones=[500]"], ["milestones=[500]", "steps=240"]),
        (["trainer.accumulate_grad_batches=0"], ["accumulate_grad_batches=0", "1 or more"]),
        (["trainer.accumulate_grad_batches=2.5"], ["accumulate_grad_batches=2.5"]),
        (["logger=wandb", "logger.wandb.projekt=x"], ["did you mean 'project'"]),
        (["+model.net.activation=sigmoid", "+model.net.decoder_chanels=[3]"], ["activation is set", "'decoder_channels'"]),
        (["loss.terms.dice=null"], ["loss.terms.dice has no _target_", "~loss.terms.dice"]),
        (["optimizer.lr=-1"], ["-1"]),
        (["sampler=balanced", "sampler.weights={rode: 1}"], ["sampler: weights", "did you mean 'road'"]),
        (["sampler=near_border", "sampler.keep=2"], ["sampler: keep has to be a number from 0 to 1; found 2"]),
        (["sampler=uniform", "sampler.kep=2"], ["sampler.kep: Uniform has no parameter"]),
        (["loss.terms.dice.wieght=1"], ["loss.terms.dice.wieght: Dice has no parameter"]),
        (["loss=focal", "loss.terms.focal.gama=1"], ["loss.terms.focal.gama: Focal has no parameter"]),
        (["dataset.bands=[[1]]", "model.freeze=[[encoder]]"], ["dataset.bands=[[1]]: a list within", "model.freeze="]),
        (["+logger.new=1e9"], ["logger.new has no _target_: found 1000000000.0"]),
        (["sampler=balanced", "sampler.blocks=3"], ["sampler.blocks is set by rsseg"]),
        (["augment=paste", "augment.paste.classes=[rode]"], ["augment.paste: classes", "did you mean 'road'"]),
        (["augment=paste", "augment.paste.cuont=1"], ["did you mean 'count'"]),
        (["scheduler.T_max=x"], ["scheduler"]),
        (["seed=5000000000"], ["from 0 to 4294967295"]),
        (["dataset.mask_values=[1,2]"], ["lists 2 values", "5 labels"]),
        (["dataset.source._target_=os.system"], ["a source of scenes of rsseg.data is expected"]),
        (["dataset.source.recipe._target_=rsseg.data.scene.os.system"], ["dataset.source.recipe._target_", "not a recipe"]),
    ],
)  # fmt: skip
def test_bad_configs_are_refused_before_data_is_read(overrides, messages):
    with pytest.raises(InputError) as caught:
        make_setup(compose(overrides))
    for message in messages:
        assert message.lower() in str(caught.value).lower()


def test_the_second_device_alone(monkeypatch):
    make_setup(compose(["trainer.devices=[1]"]))
    with pytest.raises(InputError, match=r"trainer\.devices=2: take trainer=ddp"):
        make_setup(compose(["trainer.devices=[0,1]"]))
    with pytest.raises(InputError, match="batch_size=8 can't be shared evenly among 3 devices"):
        check_machine(make_setup(compose(["trainer=ddp", "trainer.devices=3", "trainer.accelerator=cpu"])))


def test_a_logger_that_is_not_installed(monkeypatch):
    import rsseg.assembly as checks

    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'rsseg\[wandb\]'"):
        check_machine(make_setup(compose(["logger=wandb"])))


def test_a_gpu_that_is_not_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU is found: take trainer=cpu"):
        check_machine(make_setup(compose(["trainer=gpu"])))
    with pytest.raises(InputError, match="no GPU is found: take cache=ram"):
        check_machine(make_setup(compose(["cache=gpu"])))


def test_one_loss_serves_the_head_and_terms_can_be_edited():
    config = compose(
        ["loss=focal_dice", "loss.terms.dice.weight=0.3", "~loss.terms.focal", "+loss/term@loss.terms.tversky=tversky"]
    )
    terms = config.model.heads.mask.loss.terms
    assert sorted(terms) == ["dice", "tversky"]
    assert terms.dice.weight == 0.3
    make_setup(config)


def test_the_word_that_resumes_survives_shell_and_hydra():
    import shlex
    from pathlib import Path

    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rsseg.config.naming import resume_word

    for folder in ("runs/a", "runs/loss=ce,seed=1", 'runs/split={val:["tile3_*"]},x=~y'):
        override = OverridesParser.create().parse_override(shlex.split(resume_word(Path(folder)))[0])
        assert override.value() == folder


def test_folder_names():
    assert folder_name("") == "default"
    long = folder_name("a=" + "x" * 300)
    assert len(long) < 160
    assert long != folder_name("a=" + "x" * 299)


def test_script_arguments():
    from dataclasses import dataclass, field

    @dataclass
    class Arguments:
        run: str
        size: int = 3
        deep: bool = False
        trust: list[str] = field(default_factory=list)

    assert parse(Arguments, ["run=a/b=c{d: [e"]) == Arguments("a/b=c{d: [e")
    assert parse(Arguments, ["run=${x}", "size=4", "deep=yes", "trust=[a, b]"]) == Arguments("${x}", 4, True, ["a", "b"])
    for words, message in {
        (): r"run=\.\.\. must be given",
        ("runs=x",): "did you mean 'run'",
        ("x",): "not understood",
        ("run=x", "size=2.5"): r"size=2\.5: a whole number is expected",
        ("run=x", "deep=maybe"): "deep=maybe: true or false is expected",
    }.items():
        with pytest.raises(InputError, match=message):
            parse(Arguments, list(words))
