"""Every sentence of a comparison: a case in which it is said, and one in which it is not."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from run_folders import (
    FOUR,
    HEIGHT,
    changed,
    counted_records,
    height_sums,
    label_counts,
    made_comparison,
    made_findings,
    made_run,
    of_label,
    steady,
)

from rsseg.comparison.caveats import caveats
from rsseg.comparison.findings import Findings
from rsseg.comparison.runs import LeftOut
from rsseg.comparison.words import answer, brackets, number, percent, span, statistics
from rsseg.task import Multilabel

LABELS = ("ce", "dice", "focal", "lovasz", "tversky", "jaccard", "combo")


def of_heights(rmse, **options):
    return made_findings(height_sums(rmse)[..., None, :], task=HEIGHT, labels=("mse", "mae", "huber"), **options)


def first_of(found):
    return answer(found)[0]


def test_numbers_and_intervals_are_written_as_people_read_them():
    assert [number(x) for x in (0.12345, -0.0004, -0.0, float("nan"), 1234.5)] == ["0.123", "0.000", "0.000", "-", "1234.500"]
    assert [number(x, sign=True) for x in (0.0204, -0.02, -0.0001)] == ["+0.020", "-0.020", "+0.000"]
    assert span(np.nan, np.nan) == brackets(np.nan, np.nan) == ""
    assert brackets(-0.01, 0.25, sign=True) == " (-0.010 to +0.250)"
    assert [percent(x) for x in (0, 0.004, 0.573, 0.995, 1)] == ["<1 %", "<1 %", "57 %", ">99 %", ">99 %"]


# What to train with


def test_one_loss_has_nothing_to_be_compared_with():
    (said,) = answer(of_label(steady([0.6]), labels=["ce"]))
    assert said == "There is only one loss, ce: train others to compare it with, such as loss=ce,dice."
    assert "only one loss" not in " ".join(answer(of_label(steady([0.6, 0.5]))))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_nothing_is_claimed_of_fewer_than_three_seeds(seeds):
    found = of_label(steady([0.6, 0.4], seeds=seeds), tuned=steady([0.65, 0.6], seeds=seeds))
    claimed = "surely" in " ".join(answer(found))
    assert claimed == (seeds == 3)
    if not claimed:
        said, step = answer(found)
        assert said == (
            f"So far ce comes first: its IoU is 0.600. With {seeds} seed{'s' * (seeds > 1)} per loss no loss can be called "
            "better than another."
        )
        new = ",".join(map(str, range(seeds + 1, 6)))
        assert step == f"Next, train 5 seeds per loss: python train.py -m loss=ce,dice seed={new}"
        assert len(statistics(found)) == 2  # no differences that could be told apart
        assert not found.tune


def test_a_loss_that_is_surely_better_stands_alone():
    said = answer(of_label(steady([0.6, 0.5, 0.4])))
    assert said[0] == "Train with ce. It is surely better than every other loss."
    assert len(said) == 4  # two behind, and what to expect; nothing of tuning, which is not known
    assert "surely better than every" not in first_of(of_label(steady([0.6, 0.599, 0.4])))


def test_losses_that_are_not_surely_behind_are_named():
    assert first_of(of_label(steady([0.60, 0.599, 0.4]))) == "Train with ce. dice is not surely behind it."
    said = first_of(of_label(steady([0.4, 0.599, 0.60, 0.5995])))
    assert re.fullmatch(r"Train with focal\. lovasz and dice are not surely behind it\.", said)


@pytest.mark.parametrize(("near", "some"), [(4, "dice, focal, lovasz and tversky"), (5, "dice, focal, lovasz and 2 more")])
def test_of_many_that_are_near_three_are_named(near, some):
    means = [0.6, *(0.5999 - 0.0001 * np.arange(near)), 0.4]
    said = first_of(of_label(steady(means), labels=LABELS))
    assert said == f"Train with ce. {some} are not surely behind it."


def test_losses_that_are_practically_equal_are_as_good():
    iou, tuned = steady([0.6, 0.6005, 0.601]), steady([0.6, 0.6005, 0.601])
    found = of_label(iou, tuned=tuned)
    assert first_of(found) == (
        "Train with any of these losses, and leave the thresholds at 0.5. None differs from focal, the first, by 0.01 IoU or "
        "more."
    )
    assert "focal and dice are practically equal: they differ by less than 0.01 IoU." in statistics(found)
    strict = of_label(steady([0.6, 0.6, 0.6]), equal_within=0.001)
    assert "any of these" not in first_of(strict)
    assert "practically equal" not in " ".join(statistics(strict))


def test_nothing_is_said_to_be_behind_where_nothing_is_sure():
    found = of_label(steady([0.60, 0.59, 0.58], of_scenes=0.05, of_seeds=0.05))
    assert first_of(found) == "Not decided: ce comes first, but dice and focal are not surely behind it."
    assert "surely behind it, by" not in " ".join(answer(found))


def test_only_two_losses_that_are_not_told_apart():
    iou = steady([0.60, 0.59], of_scenes=0.05)
    assert first_of(of_label(iou)) == "Not decided: ce comes first, but dice is not surely behind it."
    assert first_of(of_label(iou, tuned=iou)) == ("Not decided: ce comes first, but dice is not surely behind it.")


def test_losses_behind_have_one_interval_each_and_of_many_the_nearest_have_one():
    found = of_label(steady(0.7 - 0.1 * np.arange(6)), labels=LABELS)
    said = answer(found)
    lead = found.ranked.lead()
    for i in range(1, 5):
        gap, low, high = lead.value[0, i], lead.low[0, i], lead.high[0, i]
        assert said[i] == f"{LABELS[i]} is surely behind it, by {gap:.3f} ({low:.3f} to {high:.3f})."
    assert said[5] == "Further behind: jaccard."
    assert "Further behind: jaccard and combo." in answer(of_label(steady(0.7 - 0.1 * np.arange(7)), labels=LABELS))
    assert "Further" not in " ".join(answer(of_label(steady(0.7 - 0.1 * np.arange(5)), labels=LABELS)))


def test_an_error_is_low_and_has_its_unit():
    found = of_heights(steady([1.0, 1.5, 2.0], of_scenes=0.1))
    said = answer(found)
    assert said[0] == "Train with mse. It is surely better than every other loss."
    assert re.fullmatch(r"mae is surely behind it, by 0\.498 m \(0\.\d{3} to 0\.\d{3}\)\.", said[1])
    assert re.search(r"Its expected RMSE on new scenes is 1\.\d{3} m; choosing", said[-1])
    assert "So far mse comes first: its RMSE is 1.000 m." in first_of(of_heights(steady([1.0, 2.0], seeds=2, of_scenes=0)))
    assert re.match(
        r"Differences below 0\.\d{3} m to 0\.\d{3} m, depending on the pair, can\'t be detected", statistics(found)[0]
    )
    equal = of_heights(steady([1.0, 1.0, 1.0]))
    assert first_of(equal).endswith("the first, by 0.01 m or more.")
    words = " ".join(said + statistics(found) + caveats(found))
    for word in ("threshold", "tuning", "cross-entropy", "Class", "IoU", "give every pixel"):
        assert word not in words


def test_no_sentence_has_two_intervals():
    for found in (
        of_label(steady([0.6, 0.55, 0.5, 0.2]), tuned=steady([0.61, 0.57, 0.52, 0.2])),
        of_label(steady([0.6, 0.59, 0.58], of_scenes=0.05), tuned=steady([0.61, 0.57, 0.6], of_scenes=0.05)),
        of_heights(steady([1.0, 1.1])),
    ):
        for said in answer(found) + statistics(found) + caveats(found):
            assert said.count(" to ") - said.count("belongs to") <= 3
            assert len(re.findall(r"\([^()]* to [^()]*\)", said)) <= 1
            assert said[0].isupper() or said.split()[0].rstrip(":") in found.labels
            assert said.endswith(".") or "python train.py" in said


# One area, or a class in one


def test_one_area_has_no_interval():
    found = of_label(steady([0.6, 0.4]), groups=["town"] * 8, first=np.ones(8, dtype=bool))
    (said,) = answer(found)
    assert said == (
        "So far ce comes first: its IoU is 0.600. No loss can be called better than another: all scenes lie in one area, so "
        "how scores vary between areas is not known."
    )
    assert any(note.startswith("All scenes lie in one area: no interval can be given") for note in caveats(found))
    assert statistics(found) == [
        "This holds for models trained on 3 training scenes for 400 steps at a learning rate of 0.001, and for areas like "
        "the 1 that scores them."
    ]
    assert "one area" not in " ".join(caveats(of_label(steady([0.6, 0.4]))))


def test_the_only_class_in_one_area_has_no_interval():
    found = of_label(steady([0.6, 0.4]), pixels=np.array([1000, *[0] * 7]))
    assert first_of(found).endswith("a class lies in one area, so how scores vary between areas is not known.")


# Tuning


def test_tuning_is_advised_where_it_surely_helps():
    found = of_label(steady([0.5, 0.6]), tuned=steady([0.7, 0.62]))
    assert found.tune
    said = answer(found)
    assert said[0] == "Train with ce and tune thresholds. It is surely better than every other loss."
    assert re.match(r"dice is surely behind it, both tuned, by 0\.080 \(", said[1])
    assert re.fullmatch(
        r"For ce, tuning thresholds on other scenes changes IoU by \+0\.200 \(\+0\.\d+ to \+0\.\d+\)\.", said[2]
    )
    assert said[3] == (
        "Depending on the loss, tuning changes IoU by +0.020 to +0.200. Untuned, IoU differs by 0.100 between the best and the "
        "worst loss."
    )
    assert "Its expected IoU, tuned, on new scenes is 0.7" in said[4]


def test_tuning_is_not_advised_where_its_gain_may_be_chance():
    tuned = steady([0.6, 0.5])
    tuned[0] += 0.03 * np.array([1, -1, 1, -1, 1, -1, 1, -1])  # scenes disagree
    found = of_label(steady([0.6, 0.5]), tuned=tuned)
    assert not found.tune
    said = answer(found)
    assert said[0] == "Train with ce, and leave the thresholds at 0.5. It is surely better than every other loss."
    assert "both tuned" not in said[1]
    assert said[2].endswith(", which may be chance.")
    assert ", tuned," not in said[-1]


def test_tuning_that_may_help_is_neither_advised_nor_advised_against():
    tuned = steady([0.6, 0.5])
    tuned[0] += 0.03 * np.array([1.5, -1, 1, -1, 1, -1, 1, -1])
    found = of_label(steady([0.6, 0.5]), tuned=tuned)
    assert 0 < found.gain.mean.value[0] < found.gained.high[0]
    assert first_of(found) == "Train with ce. It is surely better than every other loss."
    assert answer(found)[2].endswith(", which may be chance.")


def test_tuning_that_makes_the_best_loss_worse_is_not_advised_for_what_it_does_for_others():
    found = of_label(steady([0.60, 0.50]), tuned=steady([0.57, 0.58]))  # dice gains surely, and stays below ce as it was
    assert found.gained.low[1] > 0
    assert not found.tune
    assert first_of(found).startswith("Train with ce, and leave the thresholds at 0.5.")
    assert "changes IoU by -0.030" in " ".join(answer(found))


def test_tuning_is_advised_where_it_surely_helps_the_loss_that_leads_untuned():
    tuned = steady([0.62, 0.63])
    tuned[1] += 0.1 * np.array([1, -1, 1, -1, 1, -1, 1, -1])  # the new leader may gain by chance
    found = of_label(steady([0.60, 0.55], of_scenes=0.001), tuned=tuned)
    assert found.gained.low[1] < 0 < found.gained.low[0]
    assert first_of(found).startswith("Not decided: dice with tuned thresholds comes first, but ce is not")


def test_exclusive_classes_have_biases():
    fixed, tuned = (label_counts(steady(m)[..., None] * np.ones(4)) for m in ([0.6, 0.5], [0.65, 0.5]))
    found = made_findings(fixed, tuned, task=FOUR)
    assert first_of(found).startswith("Train with ce and tune biases per class. It")
    assert first_of(made_findings(fixed, fixed, task=FOUR)).startswith("Train with ce, and leave out biases per class. It")
    assert "checkpoints and biases per class that were chosen on other scenes" in " ".join(statistics(found))


def test_what_tuning_does_to_another_metric_is_not_known():
    iou = steady([0.6, 0.5])
    found = of_label(iou, tuned=iou + 0.1, metric="recall")
    assert first_of(found) == "Train with ce. It is surely better than every other loss."
    assert "Thresholds are tuned for IoU: what tuning does to recall is not known." in caveats(found)
    assert "is not known" not in " ".join(caveats(of_label(iou, tuned=iou + 0.1, metric="dice")))


def test_why_nothing_was_tuned_is_said():
    iou = steady([0.6, 0.5])
    found = of_label(iou, untuned="no class occurs in both halves of the scenes")
    assert "The gain by tuning is not known: no class occurs in both halves of the scenes." in caveats(found)
    rows = [list(row) for row in of_label(iou, tuned=iou).comparison.runs]
    rows[1][2] = changed(rows[1][2], records=dataclasses.replace(rows[1][2].records, chosen=None))
    lacking = Findings(made_comparison(rows))
    assert "The gain by tuning is not known: a run has no tuned counts." in caveats(lacking)
    assert "tuning" not in " ".join(answer(lacking))
    assert "The gain by tuning" not in " ".join(caveats(of_label(iou, tuned=iou)))


# What to expect


def test_chances_are_those_of_the_advised_loss():
    found = of_label(
        steady([0.60, 0.597, 0.595], of_scenes=0.02, of_seeds=0.02), tuned=steady([0.68, 0.69, 0.60], of_scenes=0.02)
    )
    said, best = answer(found)[-1], found.advised.order[0]
    chance, expected, regret = (x[best] for x in (found.chances.best, found.chances.mean, found.chances.regret))
    assert best == 1
    assert said == (
        f"With a probability of {100 * chance:.0f} % dice is the best of the 3 losses. Its expected IoU, tuned, on new scenes "
        f"is {expected:.3f}; choosing it loses {regret:.3f} on average to the loss that is truly best."
    )
    sure = answer(of_label(steady([0.6, 0.4])))[-1]
    assert sure.startswith("With a probability of >99 % ce")
    assert sure.endswith("choosing it loses 0.000 on average to the loss that is truly best.")


# What a statistician asks


def test_what_limits_a_comparison():
    seeds = statistics(of_label(steady([0.6, 0.5], of_seeds=0.02, of_scenes=0)))[0]
    scenes = statistics(of_label(steady([0.6, 0.5], of_seeds=0, of_scenes=0.05)))[0]
    assert re.fullmatch(r"Differences below 0\.\d{3} can\'t be detected here, mostly because there are only 5 seeds\.", seeds)
    assert scenes.endswith("only 8 scenes.")
    areas = statistics(of_label(steady([0.6, 0.5], of_seeds=0, of_scenes=0.05), groups=list("abcabcde")))[0]
    assert areas.endswith("only 5 areas.")


def test_the_seeds_that_would_decide_are_named_with_their_command():
    found = of_label(steady([0.60, 0.585], of_seeds=0.02, of_scenes=0.0))
    enough = found.reach.seeds
    assert 5 < enough <= 50
    (said,) = [s for s in statistics(found) if s.startswith("If")]
    new = ",".join(map(str, range(6, enough + 1)))
    assert said == f"If ce and dice differ as measured, about {enough} seeds per loss would separate them."
    assert answer(found)[-1] == f"Next, train {enough} seeds per loss: python train.py -m loss=ce,dice seed={new}"
    by_hand = changed(
        found, comparison=dataclasses.replace(found.comparison, plan=dataclasses.replace(found.comparison.plan, commands=[]))
    )
    assert answer(by_hand)[-1] == f"Next, train {enough} seeds per loss."


def test_no_command_is_given_for_seeds_that_nobody_trains():
    found = of_label(steady([0.60, 0.597], of_seeds=0.02, of_scenes=0.0))
    assert found.reach.seeds > 50
    said = statistics(found)[1]
    assert f"about {found.reach.seeds} seeds per loss" in said
    assert not any("Next" in line for line in answer(found))


def test_the_areas_that_would_decide():
    found = of_label(steady([0.60, 0.57], of_seeds=0.0, of_scenes=0.05))
    assert found.reach.seeds is None
    assert statistics(found)[1] == (
        f"If ce and dice differ as measured, about {found.reach.groups} scenes would separate them."
    )


def test_seeds_or_areas_would_decide():
    found = of_label(steady([0.60, 0.59], of_seeds=0.01, of_scenes=0.01))
    assert statistics(found)[1].startswith(
        f"If ce and dice differ as measured, about {found.reach.seeds} seeds per loss or about {found.reach.groups} scenes "
        "would separate them."
    )


def test_neither_would_decide_and_what_is_decided_needs_nothing():
    close = of_label(steady([0.60, 0.5999], of_seeds=0.02, of_scenes=0.03))
    assert statistics(close)[1] == "To separate ce and dice, both more seeds and more scenes are needed."
    decided = " ".join(statistics(of_label(steady([0.60, 0.5]))))
    assert "tell them apart" not in decided
    assert "practically equal" not in decided


@pytest.mark.parametrize(("by", "said"), [(0.02, "0.020"), (0.0, "0.000"), (-0.01, "-0.010")])
def test_optimism(by, said):
    """Validations on the scenes that chose say so much more, or less, than those of checkpoints that other scenes chose."""
    rows = []
    for label, iou in zip(("ce", "dice"), steady([0.6, 0.5]), strict=True):
        seen = [np.stack([label_counts(scenes + by), label_counts(scenes - 0.2)])[:, :, None] for scenes in iou]
        each = [counted_records(label_counts(scenes)[:, None], seen=one) for scenes, one in zip(iou, seen, strict=True)]
        rows.append([made_run(label, j + 1, records) for j, records in enumerate(each)])
    found = Findings(made_comparison(rows))
    assert found.optimism == pytest.approx(np.full((2, 5), by), abs=1e-9)
    assert statistics(found)[1] == (
        f"Every scene is scored by checkpoints that were chosen on other scenes; a checkpoint scores {said} better on those "
        "that chose it."
    )
    by_contours = Findings(made_comparison(rows), "boundary_iou")  # contours are not counted at validations
    assert "better on those" not in " ".join(statistics(by_contours))


def test_a_single_validation_chooses_nothing():
    counts, groups = label_counts(steady([0.6, 0.5]))[..., None, :], ["town"] * 8
    one = {"seen": counts[0, 0][None]}
    found, tuned = made_findings(counts, **one), made_findings(counts, counts, **one)
    assert "Every scene is scored by the only checkpoint of a run: nothing was chosen." in statistics(found)
    assert "Every scene is scored by thresholds that were chosen on other scenes." in statistics(tuned)
    alone = made_findings(counts, groups=groups, first=np.ones(8, dtype=bool), **one)
    words = " ".join(caveats(found) + caveats(alone) + statistics(alone))
    for wrong in ("chose the checkpoint", "not trained to the end", "checkpoints"):
        assert wrong not in words
    assert np.isnan(found.optimism).all()


def test_scores_of_another_split():
    """Halves are of the scenes that chose; the others are as many here, by chance."""
    pixels = np.full((8, 3), 1000)
    pixels[::2, 2] = 0
    rows = [list(row) for row in of_three(pixels).comparison.runs]
    validated = Findings(made_comparison(rows))
    rows = [[changed(run, data={"scenes": {"train": ["a"], "val": list("stuvwxyz")}}) for run in row] for row in rows]
    tested = Findings(made_comparison(rows))
    assert "Every scene is scored by checkpoints that were chosen on the validation split." in statistics(tested)
    assert "validation split" not in " ".join(statistics(validated))
    assert np.isnan(tested.optimism).all()
    assert "better on those that chose it" in " ".join(statistics(validated))
    assert "better on those that chose it" not in " ".join(statistics(tested))


def test_what_it_holds_for():
    found = of_label(steady([0.6, 0.5]), groups=list("aabbccdd"))
    assert statistics(found)[-1] == (
        "This holds for models trained on 3 training scenes for 400 steps at a learning rate of 0.001, and for areas like "
        "the 4 that score them."
    )
    rows = [list(row) for row in found.comparison.runs]
    for i, run in enumerate(rows[1]):
        rows[1][i] = changed(
            run,
            rate=0.01,
            summary={"steps": 300, "seconds": 1.0},
            data=run.data | {"scenes": run.data["scenes"] | {"train": ["a"]}},
        )
    assert " for 300 or 400 steps at each loss's learning rate, " in statistics(Findings(made_comparison(rows)))[-1]
    rows = [
        [changed(run, rate=np.nan, data=run.data | {"scenes": run.data["scenes"] | {"train": ["a"]}}) for run in row]
        for row in rows
    ]
    assert " on 1 training scene for 300 or 400 steps, and" in statistics(Findings(made_comparison(rows)))[-1]


# What weakens the answer


def test_three_seeds_are_exploratory():
    said = "Exploratory: with {} seeds per loss, intervals are unreliable. Train 5 or more."
    for seeds in range(1, 7):
        notes = caveats(of_label(steady([0.6, 0.5], seeds=seeds)))
        assert (said.format(seeds) in notes) == (seeds in (3, 4))


def test_few_areas_are_named():
    iou = steady([0.6, 0.5])
    notes = caveats(of_label(iou, groups=list("aaabbbcc")))
    assert notes[0] == (
        "Only 3 areas are scored, a, b and c: intervals are unreliable for other areas. Score 6 or more, or every area in turn "
        "(sweep=kfold)."
    )
    assert caveats(of_label(iou[:, :, :5]))[0].startswith("Only 5 scenes are scored, scene_0, scene_1,")
    assert "are scored," not in " ".join(caveats(of_label(iou[:, :, :6])))


def test_an_early_look_is_labelled():
    found = of_label(steady([0.6, 0.5]), unfinished={"ce": 1, "dice": 3})
    assert caveats(found)[0] == (
        "An early look: 4 of 10 planned runs are not finished (ce 1 and dice 3). Repeated looks find differences by chance: "
        "decide when the sweep is finished."
    )
    assert "early look" not in " ".join(caveats(of_label(steady([0.6, 0.5]))))


THREE = Multilabel(("roof", "road", "dam"))


def of_three(pixels, **options):
    """Findings of three labels with so many pixels ``[S, 3]`` and IoUs of 0.6, or of another loss 0.5; 0.1 of dams."""
    iou = np.broadcast_to(steady([0.6, 0.5], scenes=len(pixels))[..., None], (2, 5, len(pixels), 3)).copy()
    iou[..., 2] = 0.1
    return made_findings(label_counts(iou, pixels), task=THREE, **options)


def test_an_absent_class_is_named():
    pixels = np.full((8, 3), 1000)
    pixels[:, 2] = 0
    said = "Class dam does not occur in the scenes that are scored: means leave it out."
    assert said in caveats(of_three(pixels))
    assert not any("occur" in note for note in caveats(of_three(pixels + 9)))
    sums = height_sums(steady([1.0, 2.0]), pixels=0)
    unknown = np.stack([height_sums(steady([1.0, 2.0])), sums], axis=3)
    task = dataclasses.replace(HEIGHT, classes=("height", "slope"), units=("m", "m"))
    notes = caveats(made_findings(unknown, task=task))
    assert "Value slope does not occur in the scenes that are scored: means leave it out." in notes


def test_a_lone_class_is_left_out_and_shown_beside():
    pixels = np.full((8, 3), 1000)
    pixels[1:, 2] = 0
    found = of_three(pixels)
    assert found.omitted == ["dam"]
    assert found.ranked.mean.value == pytest.approx([0.6, 0.5])
    assert (
        "Means leave dam out: most pixels of the class lie in one of the 8 scenes, so its variance can't be estimated. "
        "With dam, IoU is 0.433 for ce and 0.367 for dice."
    ) in caveats(found)
    pixels[3, 2] = 50
    assert any(note.startswith("Means leave dam out") for note in caveats(of_three(pixels)))
    assert "With dam, recall is" in " ".join(caveats(of_three(pixels, metric="recall")))
    assert "lies, nearly" not in " ".join(caveats(of_three(np.full((8, 3), 1000))))


@pytest.mark.parametrize(("last", "said"), [(5, False), (6, True), (10, True)])
def test_runs_that_end_at_their_best_are_not_trained_to_the_end(last, said):
    rows = [list(row) for row in of_label(steady([0.6, 0.5])).comparison.runs]
    for place in range(last):
        run = rows[place // 5][place % 5]
        rising = dataclasses.replace(run.records, quality=np.array([[0.1] * 3, [0.2] * 3]))
        rows[place // 5][place % 5] = changed(run, records=rising)
    note = (
        f"In {last} of 10 runs the best checkpoint is the last one: they are not trained to the end, and the order may change "
        "with more steps."
    )
    found = Findings(made_comparison(rows))
    assert (note in caveats(found)) == said
    assert any(line.startswith("Next, train longer: python train.py -m loss=ce,dice ") for line in answer(found)) == said


def test_cross_entropy_is_missed():
    said = "No plain cross-entropy among the runs"
    assert any(note.startswith(said) for note in caveats(of_label(steady([0.6, 0.5]), labels=("dice", "focal"))))
    assert not any(note.startswith(said) for note in caveats(of_label(steady([0.6, 0.5]))))


def test_rows_that_differ_in_more_and_runs_that_are_left_out():
    left = [LeftOut(Path("a"), "it has diverged at step 7", "x"), LeftOut(Path("b"), "it is not finished", "y")]
    found = of_label(steady([0.6, 0.5]), different=["batch_size", "code"], left_out=[*left, left[0]])
    notes = caveats(found)
    assert "The rows differ in batch_size and code as well: a lead may not be the loss's." in notes
    assert "3 runs are left out: it has diverged at step 7 (2); it is not finished (1). left_out.csv names all." in notes
    clean = " ".join(caveats(of_label(steady([0.6, 0.5]))))
    assert "differ in" not in clean
    assert "left out" not in clean


def test_a_clean_sweep_has_no_caveat_but_that_nothing_was_tuned():
    iou = steady([0.6, 0.5])
    assert caveats(of_label(iou, tuned=iou)) == []
    assert caveats(of_label(iou)) == ["The gain by tuning is not known: a run has no tuned counts."]


def in_blocks(found):
    """The same findings, of scenes that are blocks of images."""
    for run in found.comparison.all_runs:
        run.config.dataset["source"] = {"split": {"blocks": 64, "buffer": 4, "train": 0.7, "val": 0.3}}
    return found


def test_blocks_of_the_training_images_are_no_other_places():
    (note,) = caveats(in_blocks(of_label(steady([0.6, 0.5]), tuned=steady([0.6, 0.5]))))
    assert note == (
        "The scenes are blocks of 64 px of the images that train: scores hold for other parts of these images, not for other "
        "places."
    )


def test_blocks_are_not_called_independent():
    found = in_blocks(of_label(steady([0.60, 0.57], scenes=5, of_seeds=0.0, of_scenes=0.05)))
    words = " ".join(answer(found) + statistics(found) + caveats(found))
    assert "Only 5 blocks are scored, scene_0," in words
    assert "on new blocks is" in words
    assert "for blocks like the 5 that score them" in words
    assert (f"about {found.reach.groups} blocks would separate them.") in words
    for wrong in ("new areas", "areas like", f"{found.reach.groups} scenes"):
        assert wrong not in words


def test_where_no_loss_beats_a_baseline_there_is_no_answer_yet():
    found, headline = of_label(steady([0.60, 0.50])), "No loss to choose yet: none is better than the baseline majority class"
    said = answer(changed(found, baselines={"majority class": 0.65, "all positive": 0.61}))
    assert said[0] == f"{headline} (IoU 0.650)."
    assert said[1] == "So far ce comes first: its IoU is 0.600."
    assert said[2].startswith("dice is surely behind it, by ")
    assert "Train with" not in " ".join(said)
    few = changed(of_label(steady([0.60, 0.50], seeds=2)), baselines={"majority class": 0.65})
    assert answer(few)[0] == f"{headline} (IoU 0.650)."
    assert answer(few)[1].startswith("So far ce comes first")
    tuned = of_label(steady([0.60, 0.50]), tuned=steady([0.62, 0.50]))
    assert answer(changed(tuned, baselines={"majority class": 0.65}))[1] == (
        "So far ce with tuned thresholds comes first: its IoU is 0.620."
    )
    beaten = changed(found, baselines={"majority class": 0.55})
    assert not any("baseline" in line for line in answer(beaten))
    assert answer(beaten)[0].startswith("Train with ce.")


def test_losses_that_are_not_compared_are_named_in_the_answer():
    found = of_label(steady([0.60, 0.50]))
    runs = found.comparison.plan.runs | {Path("focal"): {"loss": "focal", "seed": "1"}}
    planned = dataclasses.replace(found.comparison, plan=dataclasses.replace(found.comparison.plan, runs=runs))
    assert answer(changed(found, comparison=planned))[2] == "Not compared: focal; left_out.csv says why."


def test_a_tuned_mean_is_called_one_beside_the_score_of_a_class():
    pixels = np.full((8, 3), 100)
    assert of_three(pixels).tuned_label == "IoU"
    assert of_three(pixels, metric="iou/dam").tuned_label == "IoU of dam"
    assert of_three(pixels, metric="recall/dam").tuned_label == "mean IoU"
    assert of_label(steady([0.6, 0.5]), metric="recall").tuned_label == "IoU"  # of one class there is no mean
