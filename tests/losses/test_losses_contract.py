"""The contract of DESIGN.md, section 2, for every term and task kind."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from losses_cases import CASES, CHANNELS, OF_LABELS, PIXELWISE, SMOOTH, TERMS, WEIGHTS, batch, kept, over, value_and_gradient

from rsseg.contract import IGNORE, InputError, unknown
from rsseg.losses import Composite

every_case = pytest.mark.parametrize(("name", "task"), CASES, ids=[f"{n}-{t}" for n, t in CASES])
every_case_of_labels = pytest.mark.parametrize(("name", "task"), OF_LABELS, ids=[f"{n}-{t}" for n, t in OF_LABELS])
every_pixelwise_case = pytest.mark.parametrize(("name", "task"), PIXELWISE, ids=[f"{n}-{t}" for n, t in PIXELWISE])
every_smooth_case = pytest.mark.parametrize(("name", "task"), SMOOTH, ids=[f"{n}-{t}" for n, t in SMOOTH])
few = settings(max_examples=5, deadline=None)


def cut(logits, target, keep):
    """One image's kept pixels as an image of one row."""
    return logits[:, keep][None, :, None], target[..., keep].unsqueeze(0).unsqueeze(-2)


@every_pixelwise_case
@few
@given(seed=st.integers(0, 10**6), ignored=st.sampled_from([0.0, 0.3, 0.8]))
@example(seed=154, ignored=0.8)  # every pixel is ignored, and nothing left
def test_ignored_pixels_are_as_if_cut_away(name, task, seed, ignored):
    logits, target = batch(task, seed, ignored=ignored)
    term = TERMS[name](task)
    value, gradient = value_and_gradient(term, logits, target)
    keep = kept(target)

    leaf = logits.clone().requires_grad_()
    if over(term) == "image":
        parts = [cut(leaf[b], target[b], keep[b]) for b in range(len(keep)) if keep[b].any()]
        # an image without any class, or pixel, to count has no loss: only `present` and one_class make that possible here
        present = getattr(term, "classes", "all") == "present"
        counted = [p for p in parts if not present or task == "multiclass" or (p[1] == 1).any()]
        counted = [p for p in counted if not name.startswith("one_class") or (p[1] == 0).any()]
        expected = sum(term(*part) for part in counted) / len(counted) if counted else leaf.sum() * 0
    else:
        swap = (lambda x: x.transpose(0, 1).flatten(1)) if task == "multilabel" else (lambda x: x.flatten())
        flat_logits, flat_target = leaf.transpose(0, 1).flatten(1), swap(target)
        expected = term(*cut(flat_logits, flat_target, keep.flatten()))
    expected.backward()
    assert value == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, atol=1e-12, rtol=1e-9)


@every_case
def test_all_ignored_is_exactly_zero(name, task):
    logits, target = batch(task, ignored=1.1)
    value, gradient = value_and_gradient(TERMS[name](task), logits, target)
    assert value.shape == ()
    assert value == 0
    assert not gradient.any()


@every_case
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_logits_under_ignored_pixels_harm_nothing(name, task, bad):
    logits, target = batch(task, seed=3)
    value, gradient = value_and_gradient(TERMS[name](task), logits, target)
    drop = ~kept(target).unsqueeze(1).expand_as(logits)
    bad_value, bad_gradient = value_and_gradient(TERMS[name](task), logits.masked_fill(drop, bad), target)
    assert drop.any()
    assert value == bad_value
    assert torch.equal(gradient, bad_gradient)
    assert not bad_gradient[drop].any()


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_for_extreme_logits(name, task, dtype):
    logits, target = batch(task, seed=5, size=(5, 6))
    term = TERMS[name](task)
    for scale in (1e4, 100, 88, 17):  # saturated, denormal and just representable probabilities
        for labels in (target, torch.zeros_like(target), torch.ones_like(target)):
            value, gradient = value_and_gradient(term, (logits.sign() * scale).to(dtype), labels)
            assert value.dtype == torch.float32
            assert gradient.dtype == dtype
            assert value.isfinite()
            assert gradient.isfinite().all()


@every_smooth_case
def test_gradients_are_those_of_the_value(name, task):
    logits, target = batch(task, seed=11, size=(2, 3))
    term = TERMS[name](task)
    assert torch.autograd.gradcheck(lambda x: term(x, target), (logits.requires_grad_(),))


@every_case
def test_autocast_and_half_precision_inputs_are_computed_in_float32(name, task):
    logits, target = batch(task, seed=2, dtype=torch.bfloat16)
    expected, _ = value_and_gradient(TERMS[name](task), logits.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(TERMS[name](task), logits, target)
    assert value.dtype == torch.float32
    assert value == expected
    assert gradient.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task"),
    [
        *[("ce_weighted", task) for task in CHANNELS],
        *[("levels", task) for task in ("binary", "multiclass")],
        *[(name, "multiclass") for name in ("dice_image", "lovasz", "tversky_list", "cl_dice", "top_k_ce")],
    ],
)
def test_compiles_without_graph_breaks(name, task):
    """Each kind of formula, and each kind of piece of the one pass."""
    torch._dynamo.reset()
    logits, target = batch(task, seed=4)
    term = TERMS[name](task)
    value, gradient = value_and_gradient(torch.compile(term, fullgraph=True, backend="aot_eager"), logits, target)
    expected, expected_gradient = value_and_gradient(term, logits, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@every_case_of_labels
def test_integer_dtypes_and_ignore_values_do_not_matter(name, task):
    logits, target = batch(task, seed=6)
    term = TERMS[name](task)
    expected = term(logits, target)
    assert term(logits, target.int()) == expected
    assert term(logits, target.long()) == expected
    other = TERMS[name](task)
    other.ignore_index = -100
    assert other(logits, target.long().masked_fill(target == IGNORE, -100)) == expected


@every_case_of_labels
def test_what_a_base_offers_is_heeded(name, task):
    """`over` and `classes` come with the bases of terms: a formula that forgets them would take any value."""
    logits, target = batch(task, seed=5, images=3, size=(5, 6), ignored=0.0)
    term = TERMS[name](task)
    if hasattr(term, "over"):
        term.over = "image"
        expected = torch.stack([term(logits[i : i + 1], target[i : i + 1]) for i in range(3)]).mean()
        torch.testing.assert_close(term(logits, target), expected)
    if hasattr(term, "classes"):
        term.classes = (99,)
        with pytest.raises(InputError, match="classes lists 99"):
            term(logits, target)


@every_case
def test_the_order_in_memory_does_not_matter(name, task):
    """Also of a single image, whose planes NumPy may take for arrays in Fortran order."""
    for images in (1, 2):
        logits, target = batch(task, seed=9, images=images, size=(9, 7))
        term = TERMS[name](task)
        value, gradient = value_and_gradient(term, logits, target)
        turned = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (logits, target)]
        for other_logits, other_target in ((logits.contiguous(memory_format=torch.channels_last), target), turned):
            other, other_gradient = value_and_gradient(term, other_logits, other_target)
            torch.testing.assert_close(other, value)
            torch.testing.assert_close(other_gradient, gradient)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "lovasz_all"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_one_is_the_largest_and_zero_the_smallest_overlap_loss(name, task):
    _, target = batch(task, seed=8, size=(6, 6))
    classes = 3 if task == "multiclass" else None
    if classes:
        right = torch.stack([(target == c).double() * 2 - 1 for c in range(classes)], 1) * 1e4
    else:
        right = ((target == 1).double() * 2 - 1).reshape(len(target), -1, 6, 6) * 1e4
    term = TERMS[name](task)
    assert term(right, target) == pytest.approx(0, abs=1e-9)
    if name == "tversky":
        assert term(-right if not classes else right.roll(1, 1), target) == pytest.approx(1, abs=1e-9)


def test_checkpoints_hold_no_loss_weights():
    assert not TERMS["ce_weighted"]("multiclass").state_dict()


@every_case
def test_the_order_of_images_does_not_matter(name, task):
    logits, target = batch(task, 1, images=3)
    term = TERMS[name](task)
    value, gradient = value_and_gradient(term, logits, target)
    order = torch.tensor([1, 2, 0])
    other, permuted = value_and_gradient(term, logits[order], target[order])
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(permuted, gradient[order])


@pytest.mark.parametrize(("name", "task"), [c for c in OF_LABELS if c[1] != "binary" and "weighted" not in c[0]])
def test_the_numbering_of_classes_does_not_matter(name, task):
    if name.startswith(("focal_alpha", "tversky_list", "logit_adjusted")) and task == "multiclass":
        return  # they treat classes differently
    logits, target = batch(task, 2)
    term = TERMS[name](task)
    value, gradient = value_and_gradient(term, logits, target)
    order = torch.tensor([1, 2, 0])
    if task == "multilabel":
        if name.startswith(("tversky_list", "logit_adjusted")):
            return
        renamed = target[:, order]
    else:
        renamed = torch.where(target == IGNORE, target, order.argsort().to(torch.uint8)[target.clamp(max=2).long()])
    other, permuted = value_and_gradient(term, logits[:, order], renamed)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(permuted, gradient[:, order])


@pytest.mark.parametrize("name", ["ce", "ce_smooth", "ce_weighted", "bce", "focal", "focal_alpha"])
@pytest.mark.parametrize("task", CHANNELS)
@few
@given(seed=st.integers(0, 10**6))
def test_a_pixel_term_of_a_split_batch_is_the_weighted_mean(name, task, seed):
    if (name, task) == ("bce", "multiclass"):
        return
    logits, target = batch(task, seed, images=3)
    term = TERMS[name](task)
    parts = [(logits[:1], target[:1]), (logits[1:], target[1:])]
    label_weight = torch.ones(256)
    label_weight[IGNORE] = 0
    if (name, task) == ("ce_weighted", "multiclass"):
        label_weight[:3] = torch.tensor(WEIGHTS)
    weights = [label_weight[t.long()].sum() for _, t in parts]
    expected = sum(w * term(*part) for w, part in zip(weights, parts, strict=True)) / sum(weights)
    torch.testing.assert_close(term(logits, target), expected if sum(weights) else term(logits, target) * 0)


@pytest.mark.parametrize("task", CHANNELS)
@pytest.mark.parametrize("bins", [8, 64, 512])
@few
@given(seed=st.integers(0, 10**6))
def test_levels_are_within_half_a_level_of_the_exact_loss(task, bins, seed):
    """Against a sort of |y - p|: multiclass Lovasz itself; for sigmoid tasks, each plane as a softmax of two classes."""
    logits, target = batch(task, seed, size=(9, 11))
    found = TERMS["levels"](task)
    found.bins = bins
    value = found(logits, target)
    if task == "multiclass":
        exact = TERMS["lovasz"](task)(logits, target)
    else:
        planes = [(logits[:, c], target[:, c] if task == "multilabel" else target) for c in range(logits.shape[1])]
        two = TERMS["lovasz"]("multiclass")
        two.classes = (1,)
        losses = [two(torch.stack([torch.zeros_like(z), z], 1), t) for z, t in planes if (t == 1).any()]
        exact = sum(losses) / max(1, len(losses))
    assert abs(value - exact) <= 0.5 / (bins - 1) + 1e-9


@every_smooth_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_near_float64(name, task, dtype):
    logits, target = batch(task, seed=21, dtype=dtype)
    value, gradient = value_and_gradient(TERMS[name](task), logits, target)
    exact, slope = value_and_gradient(TERMS[name](task), logits.double(), target)
    torch.testing.assert_close(value.double(), exact, atol=1e-5, rtol=1e-5)
    coarse = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(gradient.double(), slope, atol=coarse, rtol=coarse)


@every_case
def test_a_diverged_model_has_no_loss(name, task):
    """NaN at a labelled pixel: the loss is NaN, never a number that looks fine."""
    logits, target = batch(task, 3, ignored=0.0)
    logits[0, :, 1, 1] = torch.nan
    if name.startswith(("skeleton_recall", "size", "offset")):  # they look at no pixel beside centre lines, or centres
        logits[0] = torch.nan
    total = Composite({"it": (1.0, TERMS[name](task))})(logits.requires_grad_(), target).total
    total.backward()
    assert total.isnan()


@every_pixelwise_case
def test_a_pixel_of_weight_three_is_three_pixels(name, task):
    logits, target = batch(task, 3, images=2, size=(1, 6))
    repeats = torch.tensor([3, 1, 0, 2, 1, 4])
    weight = repeats.double().expand(2, 1, 6)
    term = TERMS[name](task)
    leaf, several = logits.clone().requires_grad_(), logits.repeat_interleave(repeats, -1).requires_grad_()
    value = term(leaf, target, weight)
    expected = term(several, target.repeat_interleave(repeats, -1))
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    of_pixel = torch.stack([part.sum(-1) for part in several.grad.split(repeats.tolist(), -1)], -1)
    torch.testing.assert_close(leaf.grad, of_pixel)


@every_case
@pytest.mark.parametrize("nothing", [0.0, torch.nan])
def test_a_pixel_without_weight_is_an_ignored_pixel(name, task, nothing):
    logits, target = batch(task, 4)
    weight = torch.ones(2, 3, 4, dtype=torch.float64)
    weight[:, 1, 1:3] = nothing
    term = TERMS[name](task)
    ignored = target.clone()
    ignored[..., 1, 1:3] = unknown(target)
    logits[..., 1, 1] = torch.nan
    leaf = logits.clone().requires_grad_()
    value = term(leaf, target, weight)
    value.backward()
    expected, gradient = value_and_gradient(term, logits, ignored)
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(leaf.grad, gradient)
