"""What the one pass is held to: the same sums by plain differentiable operations, and autograd's gradients of them."""

import torch
from torch.nn import functional as F

from rsseg.contract import IGNORE


def reference_sums(logits, target, task, needs, ignore_index=IGNORE):
    """As `rsseg.losses.sums.pixel_sums`, in a single process."""
    softmax, classes = task == "multiclass", logits.shape[1]
    target = target.long() if softmax else target.long().reshape(logits.shape)
    valid = target != ignore_index
    own = (target.unsqueeze(1) == torch.arange(classes).view(-1, 1, 1)) if softmax else target == 1
    valid = valid.unsqueeze(1).expand_as(logits) if softmax else valid
    own = own & valid
    z = torch.where(valid, logits if logits.dtype == torch.float64 else logits.float(), 0)
    log_p = z.log_softmax(1) if softmax else F.logsigmoid(z)
    log_not_p = torch.zeros_like(z) if softmax else F.logsigmoid(-z)
    p = log_p.exp() if softmax else z.sigmoid()

    def total(where, value):
        return torch.where(where, value, 0).sum((2, 3))

    def pair(of_own, of_other):
        return torch.stack([total(own, of_own), total(valid & ~own, of_other)])

    def levels(bins):
        error = torch.where(own, 1 - p, p)
        level = torch.where(valid, error, 0).detach().mul(bins - 1).add(0.5).floor()
        near = error + (level / (bins - 1) - error).detach()

        def histogram(where, value):
            kept = torch.where(where, value, 0).flatten(2)
            return p.new_zeros(*kept.shape[:2], bins).scatter_add(2, level.nan_to_num(0).long().flatten(2), kept)

        kinds = (own, valid & ~own)
        return torch.stack([torch.stack([histogram(w, value) for w in kinds]) for value in (torch.ones_like(p), near)])

    def focal(log_p, gamma):
        q = -log_p.expm1()
        uncertain = ~(q <= torch.finfo(q.dtype).tiny) | (gamma == 0)  # NaN too
        power = torch.where(uncertain, q, 1) ** gamma if gamma else 1
        return torch.where(uncertain, -power * log_p, 0)

    one, found = torch.ones_like(p), {}
    for key, over in {*needs, *((("count", 0.0), over) for _, over in needs)}:
        name, number = key
        value = {
            "count": lambda: pair(one, one),
            "soft": lambda: pair(p, p),
            "nll": lambda: pair(-log_p, -log_not_p),
            "spread": lambda: torch.stack([total(valid, -log_p), total(valid, -log_not_p)]),
            "focal": lambda number=number: pair(focal(log_p, number), focal(log_not_p, number)),
            "levels": lambda number=number: levels(int(number)),
        }[name]()
        found[key, over] = value if over == "image" else value.sum(-2 if name != "levels" else -3, keepdim=True)
    return found
