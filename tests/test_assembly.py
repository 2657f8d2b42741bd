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


def test_a_setup_is_frozen_and_holds_the_resolved_config():
    setup = make_setup(compose(["steps=40"]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setup.steps = 3
    assert setup.plain["scheduler"]["T_max"] == 40
    seen = setup.with_bands([3, 2])
    assert (seen.dataset.read_bands, seen.plain["dataset"]["bands"]) == ([3, 2], [3, 2])
    assert setup.plain["dataset"]["bands"] != [3, 2]
