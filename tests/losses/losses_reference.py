"""What the one pass is held to: the same sums by plain differentiable operations, and autograd's gradients of them."""

import torch
from torch.nn import functional as F

from rsseg.contract import IGNORE


def reference_sums(logits, target, task, wanted, ignore_index=IGNORE, weight=None):
    """As `rsseg.losses.sums.pixel_sums`, in a single process."""
    softmax, classes = task == "multiclass", logits.shape[1]
    soft = target.is_floating_point()
    if soft:
        valid = ~target.isnan()
        valid = valid.all(1, keepdim=True).expand_as(logits) if softmax else valid
        share = torch.where(valid, target, 0)
    else:
        target = target.long().unsqueeze(1) if softmax else target.long().reshape(logits.shape)
        valid = (target != ignore_index).expand_as(logits)
        share = ((target == torch.arange(classes).view(-1, 1, 1)) if softmax else target == 1) & valid
    if weight is not None:
        valid = valid & (weight > 0).unsqueeze(1)
    own = share * valid
    weight = valid.to(torch.float64) if weight is None else torch.where(valid, weight.unsqueeze(1), 0)
    z = torch.where(valid, logits if logits.dtype == torch.float64 else logits.float(), 0)
    weight, own = weight.to(z.dtype), own.to(z.dtype)
    log_p = z.log_softmax(1) if softmax else F.logsigmoid(z)
    log_not_p = torch.zeros_like(z) if softmax else F.logsigmoid(-z)
    p = log_p.exp() if softmax else z.sigmoid()

    def total(share, value):
        return torch.where(share * weight > 0, value * share * weight, 0).sum((2, 3))

    def pair(of_own, of_other):
        return torch.stack([total(own, of_own), total(1 - own, of_other)])

    def overlap():
        common = (p + own - (p - own).abs()) / 2 if soft else torch.where(own > 0, p, 0)
        every = torch.ones_like(p)
        return torch.stack([total(every, common), total(every, p - common)])

    def levels(bins):
        error = torch.where(own > 0, 1 - p, p)
        level = torch.where(valid, error, 0).detach().mul(bins - 1).add(0.5).floor()
        near = error + (level / (bins - 1) - error).detach()

        def histogram(where, value):
            kept = torch.where(where, value * weight, 0).flatten(2)
            return p.new_zeros(*kept.shape[:2], bins).scatter_add(2, level.nan_to_num(0).long().flatten(2), kept)

        kinds = (own > 0, valid & (own == 0))
        return torch.stack([torch.stack([histogram(w, value) for w in kinds]) for value in (torch.ones_like(p), near)])

    def focal(log_p, gamma):
        q = -log_p.expm1()
        uncertain = ~(q <= torch.finfo(q.dtype).tiny) | (gamma == 0)  # NaN too
        power = torch.where(uncertain, q, 1) ** gamma if gamma else 1
        return torch.where(uncertain, -power * log_p, 0)

    def power(log_p, number):
        return (1 - (number * log_p).exp()) / number

    one, found = torch.ones_like(p), {}
    for key in {*wanted, ("count", 0.0)}:
        name, number = key
        found[key] = {
            "count": lambda: pair(one, one),
            "soft": overlap,
            "nll": lambda: pair(-log_p, -log_not_p),
            "spread": lambda: torch.stack([total(one, -log_p), total(one, -log_not_p)]),
            "power": lambda number=number: pair(power(log_p, number), power(log_not_p, number)),
            "focal": lambda number=number: pair(focal(log_p, number), focal(log_not_p, number)),
            "levels": lambda number=number: levels(int(number)),
        }[name]()
    return found
