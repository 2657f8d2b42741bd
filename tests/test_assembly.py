"""The config as one object: what it holds, and that all its faults are told together, each with its place."""

import dataclasses

import pytest
from tiny import compose

from rsseg.assembly import make_setup
from rsseg.contract import InputError

WATER = "+model.heads.water={loss: {terms: {focal: {_target_: rsseg.losses.Focal, gama: 2}}}}"


def faults_of(*overrides):
    with pytest.raises(InputError) as caught:
        make_setup(compose(list(overrides)))
    first, *more = str(caught.value).splitlines()
    return [line.removeprefix("  - ") for line in more] or [first]


def test_a_fault_of_a_second_head_names_its_place():
    found = faults_of(WATER)
    assert len(found) == 1
    assert found[0].startswith("model.heads.water.loss.terms.focal.gama: Focal has no parameter 'gama' (did you mean 'gamma'?)")


def test_a_fault_of_a_shared_loss_is_told_once():
    found = faults_of("+model.heads.water={loss: ${loss}}", "loss.terms.dice.wieght=1")
    assert len(found) == 1
    assert found[0].startswith("loss.terms.dice.wieght")


def test_faults_of_all_places_are_told_together():
    found = faults_of("optimizer.lr=-1", "model.encoder=resnt18", "loss=ce", "loss.terms.ce.class_weights=[1,2]")
    for text in ("learning rate", "resnt18", "class_weights"):
        assert sum(text in fault for fault in found) == 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["window=100", "trainer.accumulate_grad_batches=0"], ["window=100", "accumulate_grad_batches=0"]),
        (["loss.terms.dice.smooth=-1", "loss.terms.ce.class_weights=[1,2]"], ["smooth", "class_weights"]),
        (["loss.terms.dice.weight=-1", "loss.terms.ce.weight=-2"], ["term 'dice'", "term 'ce'"]),
        (["augment=[scale_crop,noise]", "augment.scale_crop.scale=[2,1]", "augment.noise.std=-1"],
         ["scale_crop", "augment.noise"]),
        (["callbacks=[early_stopping,ema]", "callbacks.early_stopping.mode=up", "callbacks.ema.decay=7"],
         ["early_stopping", "ema"]),
        (["margin=90", "optimizer.lr=-1", "+sampler.kep=1", "model.encoder=resnt18", "trainer.devices=2"],
         ["margin=90", "learning rate", "sampler.kep", "resnt18", "trainer=ddp"]),
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/mask/iou", "seed=-1", "loss=bce"],
         ["monitor=val/mask/iou", "seed=-1", "loss.terms.bce"]),
        (["dataset.mask_values=['#000000',1,2,3,4]", "optimizer.lrr=1"], ["integers or colours; found a mix", "optimizer.lrr"]),
        (["loss.terms.dice.weight=0", "loss.terms.ce.weight=0", "optimizer.lr=-1"], ["no term has a weight", "learning rate"]),
    ],
)  # fmt: skip
def test_faults_that_show_at_different_times_are_told_in_one_round(words, parts):
    found = faults_of(*words)
    assert len(found) == len(parts), found
    for part in parts:
        assert sum(part in fault for fault in found) == 1, (part, found)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["+model.heads.water={}"], "model.heads.water has no loss with terms: found {}"),
        (["+model.heads.water=3"], "model.heads.water=3: a mapping such as"),
        (["model.heads.mask=null"], "model.heads.mask=None: a mapping such as"),
        (["+model.heads.water={loss: 3}"], "model.heads.water has no loss with terms"),
        (["+model.heads.water={loss: {terms: null}}"], "model.heads.water has no loss with terms"),
        (["logger=wandb", "logger.wandb=null"], "logger.wandb has no _target_: found None"),
        (["callbacks=ema", "callbacks.ema=null"], "callbacks.ema has no _target_: found None"),
        (["augment.d4=null"], "augment.d4 has no _target_: found None"),
        (["loss.terms.dice=null"], "loss.terms.dice has no _target_: found None"),
    ],
)
def test_a_part_that_is_empty_is_named(words, place):
    (fault,) = faults_of(*words)
    assert fault.startswith(place)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["model.heads.mask.decoder=mine"], ["model.heads.mask.decoder: Invalid value 'mine', expected one of [shared, own]"]),
        (["model.heads.mask.decodr=own"], ["model.heads.mask.decodr: there is no such setting (did you mean 'decoder'?)"]),
        (
            ["model.aux=5", "model.classifier=-1"],
            ["model.aux=5 must be from 0 to 4", "model.classifier=-1 must be at least 0"],
        ),
        (["model=pspnet", "model.aux=1"], ["model.aux=1: PSPNet has no coarser outputs to supervise"]),
        (["dataset=synthetic_height", "loss=mse", "model.classifier=0.1"], ["model.classifier=0.1 needs a head with classes"]),
        (["model.fusion=difference"], ["model.fusion=difference is about two dates: set model.siamese=true too"]),
        (["model.siamese=true", "dataset.bands=[1,2,3]"], ["model.siamese=true takes the bands of one date"]),
        (["model=dpt", "model.siamese=true", "dataset.bands=[1,2]"], ["model.siamese=true: DPT takes tokens"]),
    ],
)
def test_what_a_model_has_no_place_for(words, parts):
    found = faults_of(*words, "optimizer.lr=-1")
    assert len(found) == len(parts) + 1
    for part in parts:
        assert sum(fault.startswith(part) for fault in found) == 1, (part, found)


def test_a_setup_is_frozen_and_holds_the_resolved_config():
    setup = make_setup(compose(["steps=40"]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setup.steps = 3
    assert setup.plain["scheduler"]["T_max"] == 40
    seen = setup.with_bands([3, 2])
    assert (seen.dataset.read_bands, seen.plain["dataset"]["bands"]) == ([3, 2], [3, 2])
    assert setup.plain["dataset"]["bands"] != [3, 2]
