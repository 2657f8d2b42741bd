"""Terms of shape: against loops over pixels and what their papers promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_cases import CHANNELS, batch
from scipy.ndimage import binary_dilation, label

from rsseg.contract import IGNORE, InputError
from rsseg.losses import Boundary, BoundaryDoU, ClDice, ComponentDice, Dice, Jaccard, SkeletonRecall, Tversky
from rsseg.losses.terms.shape import soft_skeleton, thin

TASKS = list(CHANNELS)
every_task = pytest.mark.parametrize("task", TASKS)
every_over = pytest.mark.parametrize("over", ["batch", "image"])
CORNERS = np.ones((3, 3))


def planes(logits, target, task):
    """Image, class, probability, membership and validity of every plane, in NumPy."""
    p = (logits.softmax(1) if task == "multiclass" else logits.sigmoid()).numpy()
    t = target.numpy()
    for b, c in np.ndindex(p.shape[:2]):
        labels = t[b, c] if task == "multilabel" else t[b]
        yield b, c, p[b, c], labels == (c if task == "multiclass" else 1), labels != IGNORE


def mean_by_hand(losses, over):
    """The mean over classes of ``{(image, class): (top, bottom)}``, of the batch or image by image."""
    groups = [sorted({b for b, _ in losses})] if over == "batch" else [[b] for b in sorted({b for b, _ in losses})]
    means = []
    for images in groups:
        of_class = {}
        for (b, c), (top, bottom) in losses.items():
            if b in images and bottom:
                before = of_class.get(c, (0, 0))
                of_class[c] = (before[0] + top, before[1] + bottom)
        if of_class:
            means.append(np.mean([top / bottom for top, bottom in of_class.values()]))
    return np.mean(means) if means else 0.0


def neighbours(i, j, shape, reach):
    """The places around a pixel, inside the image: across edges (`reach` 4) or corners too (8)."""
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a or b) and (reach == 8 or not (a and b))]
    return [(i + a, j + b) for a, b in steps if 0 <= i + a < shape[0] and 0 <= j + b < shape[1]]


def structures(seed, size=14):
    rng = np.random.default_rng(seed)
    noise = rng.random((size, size)) < rng.uniform(0.2, 0.95)
    blobs = binary_dilation(rng.random((size, size)) < 0.05, iterations=int(rng.integers(1, 4)))
    return noise if seed % 2 else blobs


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_thinning_keeps_pieces_and_holes_and_leaves_lines(seed):
    mask = structures(seed)
    line = thin(mask)
    assert not (line & ~mask).any()
    padded, padded_line = np.pad(mask, 1), np.pad(line, 1)
    assert label(padded, CORNERS)[1] == label(padded_line, CORNERS)[1]
    assert label(~padded)[1] == label(~padded_line)[1]
    assert (thin(line) == line).all()
    blocks = line[:-2, :-2].copy()  # no pixel with eight neighbours is left but around a hole that it would open
    for a, b in np.ndindex(3, 3):
        blocks &= line[a : a + line.shape[0] - 2, b : b + line.shape[1] - 2]
    assert not blocks.any()


def test_thinning_finds_the_centre_of_a_road_and_works_on_many_planes():
    roads = np.zeros((2, 3, 20, 30), bool)
    roads[0, 1, 7:12] = True
    roads[1, 2, :, 4:7] = True
    lines = thin(roads)
    assert lines[0, 1, 9, 2:28].all()
    assert lines[0, 1].sum() <= 30
    assert lines[1, 2, 1:19, 5].all()
    for plane in np.ndindex(2, 3):
        assert (thin(roads[plane]) == lines[plane]).all()


def test_thinning_agrees_with_scikit_image_about_roads():
    morphology = pytest.importorskip("skimage.morphology")
    rows, columns = np.mgrid[:90, :90]
    road = np.abs(rows - 45 - 20 * np.sin(columns / 15)) < 5
    tubes = [binary_dilation(x, iterations=2)[:, 8:-8] for x in (thin(road), morphology.skeletonize(road))]
    assert (tubes[0] & tubes[1]).sum() / (tubes[0] | tubes[1]).sum() > 0.8


@every_task
@every_over
@pytest.mark.parametrize("radius", [0, 2])
def test_skeleton_recall_by_hand(task, over, radius):
    logits, target = batch(task, 3, images=3, size=(9, 10))
    target[1][target[1] == 1] = 0
    losses = {}
    for b, c, p, own, _ in planes(logits, target, task):
        tube = thin(own)
        for _ in range(radius):
            wider = tube.copy()
            for i, j in np.argwhere(tube):
                for place in neighbours(i, j, tube.shape, 4):
                    wider[place] = True
            tube = wider
        tube &= own
        losses[b, c] = ((1 - p)[tube].sum(), tube.sum())
    found = SkeletonRecall(task, radius, over=over)(logits, target)
    assert found.item() == pytest.approx(mean_by_hand(losses, over), abs=1e-12)
    chosen = {place: loss for place, loss in losses.items() if place[1] == 0}
    found = SkeletonRecall(task, radius, classes=[0], over=over)(logits, target)
    assert found.item() == pytest.approx(mean_by_hand(chosen, over), abs=1e-12)


def road_and_predictions():
    """A road three pixels wide; the truth as logits, a narrower road and one with a gap."""
    road = torch.zeros(1, 9, 41, dtype=torch.long)
    road[0, 3:6] = 1
    narrow, broken = road.clone(), road.clone()
    narrow[0, 3] = narrow[0, 5] = 0  # 82 pixels are missing
    broken[0, :, 18:23] = 0  # 15 pixels are missing
    return road, [(x.unsqueeze(1) * 2.0 - 1) * 99 for x in (road, narrow, broken)]


def test_skeleton_recall_minds_a_gap_as_cl_dice_does():
    road, predictions = road_and_predictions()
    right, narrow, broken = (SkeletonRecall("binary", radius=0)(x, road).item() for x in predictions)
    assert right == narrow == pytest.approx(0, abs=1e-6)
    assert broken == pytest.approx(5 / 39, abs=0.01)  # the centre line ends a pixel before the road does
    assert ClDice("binary")(predictions[2], road) > ClDice("binary")(predictions[1], road)
    dice = [Dice("binary")(x, road) for x in predictions]
    assert dice[2] < dice[1]  # Dice counts pixels


def distances(own):
    """The squared distance ``[H, W, K]`` of each pixel to each component, and the components."""
    parts, count = label(own, CORNERS)
    cells = [np.argwhere(parts == k + 1) for k in range(count)]
    far = [[((cell - place) ** 2).sum(1).min() for cell in cells] for place in np.ndindex(own.shape)]
    return np.array(far).reshape(*own.shape, count), parts


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@every_over
@pytest.mark.parametrize("smooth", [0.0, 0.5])
def test_component_dice_by_hand(task, over, smooth):
    logits, target = batch(task, 5, images=3, size=(9, 10))
    target[1][target[1] == 1] = 0
    for b, c, _, own, _ in planes(logits, target, task):
        far = np.sort(distances(own)[0], 2)
        if far.shape[2] > 1:  # what is as near to two components must not matter here
            logits[b, c][torch.from_numpy(far[..., 0] == far[..., 1])] = -1e3
    losses = {}
    for b, c, p, own, valid in planes(logits, target, task):
        far, parts = distances(own)
        total = 0
        for k in range(far.shape[2]):
            inside = (far.argmin(2) == k) & valid
            tp = p[parts == k + 1].sum()
            total += 1 - (2 * tp + smooth) / (p[inside].sum() + (parts == k + 1).sum() + smooth)
        losses[b, c] = (total, far.shape[2])
    found = ComponentDice(task, smooth, over=over)(logits, target)
    assert found.item() == pytest.approx(mean_by_hand(losses, over), abs=1e-12)


def test_component_dice_of_classes_is_that_of_each_against_the_rest():
    logits, target = batch("multiclass", 5, size=(9, 10))
    losses = []
    for c in range(3):
        one = torch.where(target == IGNORE, target, (target == c).to(torch.uint8))
        losses.append(ComponentDice("binary")(logits.softmax(1)[:, c : c + 1].logit(), one))
        torch.testing.assert_close(ComponentDice("multiclass", classes=[c])(logits, target), losses[-1])
    torch.testing.assert_close(ComponentDice("multiclass")(logits, target), sum(losses) / 3)


def test_a_small_object_counts_as_a_large_one_and_an_empty_image_for_nothing():
    target = torch.zeros(2, 30, 30, dtype=torch.long)
    target[0, 2:22, 2:22] = 1
    target[0, 26:28, 26:28] = 1
    missed = target.clone()
    missed[0, 26:28, 26:28] = 0
    logits = (missed.unsqueeze(1) * 2.0 - 1) * 99
    assert Dice("binary", smooth=0)(logits, target) < 0.01
    assert ComponentDice("binary")(logits, target) == 0.5
    logits[1] = 99.0
    assert ComponentDice("binary")(logits, target) == 0.5


@every_task
@every_over
@pytest.mark.parametrize("limit", [0.8, 0.1])
def test_boundary_dou_by_hand(task, over, limit):
    logits, target = batch(task, 5, images=2, size=(12, 13))
    target[0, ..., 1:11, 2:12] = 1  # compact enough
    sums = {}
    for b, c, p, own, valid in planes(logits, target, task):
        rim = [place for place in np.argwhere(own) if any((valid & ~own)[k] for k in neighbours(*place, own.shape, 4))]
        counts = [len(rim), own.sum(), p[own].sum(), p[valid & ~own].sum(), (1 - p)[own].sum()]
        place = (0, c) if over == "batch" else (b, c)
        sums[place] = sums.get(place, 0) + np.array(counts)
    losses, limits = {}, []
    for place, (rim, size, tp, fp, fn) in sums.items():
        a = min(max(1 - 2 * rim / size, 0), limit)
        losses[place] = ((fp + fn) / (fp + fn + (1 - a) * tp), 1)
        limits.append(a)
    found = BoundaryDoU(task, limit, smooth=0, over=over)(logits, target)
    assert found.item() == pytest.approx(mean_by_hand(losses, over), abs=1e-12)
    assert 0 < max(limits) <= limit


def test_boundary_dou_is_jaccard_for_lines_and_has_a_limit_for_squares():
    line = torch.zeros(1, 60, 60, dtype=torch.long)
    square = line.clone()
    line[0, 30] = 1
    square[0, 5:55, 5:55] = 1
    logits = torch.randn(1, 1, 60, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(BoundaryDoU("binary")(logits, line), Jaccard("binary")(logits, line))
    torch.testing.assert_close(BoundaryDoU("binary", limit=0.5)(logits, square), Tversky("binary", 2, 2)(logits, square))
    whole = torch.ones_like(line)  # no boundary at the border of an image
    torch.testing.assert_close(BoundaryDoU("binary")(logits, whole), Tversky("binary", 5, 5)(logits, whole))


def test_a_pixel_of_weight_two_is_two_pixels():
    """Of rows doubled where nothing but a number of pixels changes: no line, no boundary and no component is new."""
    logits, target = batch("multiclass", 8, images=1, size=(6, 7), ignored=0)
    weight = torch.full((1, 6, 7), 2.0, dtype=torch.float64)
    for term in (SkeletonRecall("multiclass"), ComponentDice("multiclass", smooth=0), BoundaryDoU("multiclass", smooth=0)):
        torch.testing.assert_close(term(logits, target, weight), term(logits, target))
        hidden = target.clone()
        hidden[0, 2, 3] = IGNORE
        weight[0, 2, 3] = 0
        torch.testing.assert_close(term(logits, target, weight), term(logits, hidden))
        weight[0, 2, 3] = 2
    dou = BoundaryDoU("multiclass", smooth=2)(logits, target, weight)
    torch.testing.assert_close(dou, BoundaryDoU("multiclass", smooth=1)(logits, target))


def distance_by_hand(own, valid):
    """To the nearest pixel of the other kind, less the half pixel to their border; every pair of pixels compared."""
    other = valid & ~own
    phi = np.zeros(own.shape)
    if own.any() and other.any():
        for i, j in np.ndindex(own.shape):
            there = np.argwhere(other if own[i, j] else own)
            far = np.sqrt(((there - [i, j]) ** 2).sum(1)).min() - 0.5
            phi[i, j] = -far if own[i, j] else far
    return phi


@every_task
@pytest.mark.parametrize("classes", ["all", "present", [0]])
def test_boundary_by_hand(task, classes):
    for seed in range(4):
        logits, target = batch(task, seed, size=(5, 6))
        target[0][target[0] == (1 if seed else 0)] = 2 if task == "multiclass" else 0
        total = count = 0.0
        for _, c, p, own, valid in planes(logits, target, task):
            if (classes == [0] and c) or (classes == "present" and not own.any()):
                continue
            total, count = total + (distance_by_hand(own, valid) * p)[valid].sum(), count + valid.sum()
        value = Boundary(task, classes=classes)(logits, target)
        assert value.item() == pytest.approx(total / count if count else 0, abs=1e-6)


def test_boundary_is_least_for_the_truth_and_grows_with_distance():
    target = torch.zeros(1, 9, 9, dtype=torch.long)
    target[0, 3:6, 3:6] = 1
    truth = (target.unsqueeze(1) * 2.0 - 1) * 99
    near, far = truth.clone(), truth.clone()
    near[0, 0, 4, 6], far[0, 0, 4, 8] = 99, 99
    values = [Boundary("binary")(x, target) for x in (truth, near, far)]
    assert values[0] < values[1] < values[2]
    assert values[0] < 0


def skeleton_by_hand(x, iterations):
    """The paper's algorithm 1 with loops over pixels: erosion over a cross, dilation over a square, inside the image."""

    def over(x, offsets, choose):
        found = np.zeros_like(x)
        for i, j in np.ndindex(x.shape):
            around = [(i + a, j + b) for a, b in offsets if 0 <= i + a < x.shape[0] and 0 <= j + b < x.shape[1]]
            found[i, j] = choose(x[k] for k in around)
        return found

    def eroded(x):
        return over(x, [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], min)

    def opened(x):
        return over(eroded(x), [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)], max)

    skeleton = np.maximum(x - opened(x), 0)
    for _ in range(iterations):
        x = eroded(x)
        skeleton = skeleton + (1 - skeleton) * np.maximum(x - opened(x), 0)
    return skeleton


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_skeleton_by_hand(iterations):
    x = torch.rand(1, 2, 7, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = soft_skeleton(x, iterations)
    for c in range(2):
        np.testing.assert_allclose(found[0, c], skeleton_by_hand(x[0, c].numpy(), iterations), atol=1e-12)


@every_task
def test_cl_dice_by_hand(task):
    logits, target = batch(task, 3, size=(6, 7))
    sums = np.zeros((logits.shape[1], 4))
    for _, c, p, own, valid in planes(logits, target, task):
        p = np.where(valid, p, 0.0)
        thin_p, thin_y = skeleton_by_hand(p, 2), skeleton_by_hand(own.astype(float), 2)
        sums[c] += [(thin_p * own).sum(), thin_p.sum(), (thin_y * p).sum(), thin_y.sum()]
    precision, sensitivity = (sums[:, 0] + 0.5) / (sums[:, 1] + 0.5), (sums[:, 2] + 0.5) / (sums[:, 3] + 0.5)
    expected = np.mean(1 - 2 * precision * sensitivity / (precision + sensitivity))
    assert ClDice(task, iterations=2, smooth=0.5)(logits, target).item() == pytest.approx(expected, abs=1e-12)


def test_monai_has_the_same_skeleton():
    cldice = pytest.importorskip("monai.losses.cldice")
    x = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(soft_skeleton(x, 3), cldice.soft_skel(x, 3))


def test_ignored_pixels_are_part_of_no_structure():
    road, predictions = road_and_predictions()
    hidden = road.clone()
    hidden[0, :, 18:23] = IGNORE
    for term in (
        SkeletonRecall("binary"),
        ComponentDice("binary"),
        BoundaryDoU("binary"),
        ClDice("binary"),
        Boundary("binary"),
    ):
        assert term(predictions[0], hidden) == term(predictions[2], hidden)
        if not isinstance(term, Boundary):
            assert term(predictions[0], hidden) == pytest.approx(0, abs=1e-3)
    assert len(distances((hidden == 1)[0].numpy())[0][0, 0]) == 2  # two roads


def test_what_is_refused():
    logits, target = batch("multiclass", 5)
    for build, message in (
        (lambda: SkeletonRecall("binary", radius=-1), r"radius.*found -1"),
        (lambda: SkeletonRecall("binary", radius=1.5), r"radius.*found 1.5"),
        (lambda: ComponentDice("binary", smooth=-1), r"smooth.*found -1"),
        (lambda: BoundaryDoU("binary", limit=1), r"limit has to be a number from 0 to 0.999; found 1"),
        (lambda: BoundaryDoU("regression"), r"fits the tasks"),
        (lambda: ClDice("binary", iterations=-1), r"iterations.*found -1"),
        (lambda: ClDice("binary", smooth=0), r"smooth has to be more than 0"),
        (lambda: SkeletonRecall("multiclass", classes=[3])(logits, target), r"classes lists 3"),
        (lambda: ComponentDice("multiclass", classes=[3])(logits, target), r"classes lists 3"),
        (lambda: BoundaryDoU("multiclass", classes=[3])(logits, target), r"classes lists 3"),
        (lambda: ComponentDice("multiclass")(logits, logits.softmax(1)), r"needs labels"),
    ):
        with pytest.raises(InputError, match=message):
            build()
