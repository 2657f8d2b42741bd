"""The config as one object: what it holds, and that all its faults are told together, each with its place."""

import dataclasses

import pytest
from tiny import compose

from rsseg.assembly import setup
from rsseg.contract import InputError

WATER = "+model.heads.water={loss: {terms: {focal: {_target_: rsseg.losses.Focal, gama: 2}}}}"


def faults_of(*overrides):
    with pytest.raises(InputError) as caught:
        setup(compose(list(overrides)))
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines()[1:]]


def test_a_fault_of_a_second_head_names_its_place():
    found = faults_of(WATER)
    assert len(found) == 1
    assert found[0].startswith("model.heads.water.loss.terms.focal.gama: Focal has no parameter 'gama' (did you mean 'gamma'?)")


def test_a_fault_of_a_shared_loss_is_told_once():
    found = faults_of("+model.heads.water={loss: ${loss}}", "loss.terms.dice.wieght=1")
    assert len(found) == 1
    assert found[0].startswith("loss.terms.dice.wieght")


def test_faults_of_all_places_are_told_together():
    found = faults_of(
        "optimizer.rl=1", "scheduler.T_mx=3", "sampler._target_=rsseg.data.sampling.Unifrom", "seed=-1", "overlap=999"
    )
    for place in ("optimizer.rl", "scheduler.T_mx", "sampler._target_", "seed=-1", "overlap=999"):
        assert sum(place in fault for fault in found) == 1


def test_what_only_making_the_parts_shows_is_told_together():
    found = faults_of(
        "optimizer.lr=-1", "model.encoder=resnt18", "loss=ce", "loss.terms.ce.class_weights=[1,2]", "augment.d4={}"
    )
    assert any("optimizer" in fault for fault in found) or any("augment.d4" in fault for fault in found)
    found = faults_of("optimizer.lr=-1", "model.encoder=resnt18", "loss=ce", "loss.terms.ce.class_weights=[1,2]")
    for text in ("learning rate", "resnt18", "class_weights"):
        assert sum(text in fault for fault in found) == 1


def test_a_setup_is_frozen_and_holds_the_resolved_config():
    made = setup(compose(["steps=40"]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.steps = 3
    assert made.plain["scheduler"]["T_max"] == 40
    seen = made.with_bands([3, 2])
    assert (seen.dataset.read_bands, seen.plain["dataset"]["bands"]) == ([3, 2], [3, 2])
    assert made.plain["dataset"]["bands"] != [3, 2]
