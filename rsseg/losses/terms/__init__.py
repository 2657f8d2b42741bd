"""Loss terms: one thin module per loss over the pure functions of `formulas`, `lovasz`, `shape` and so on.

Every term is called as ``term(logits, target)`` or ``term(logits, target, weight)`` and returns a float32 (float64 for
float64 logits) scalar.

* logits: ``[B, C, H, W]``, any floating dtype.
* target: labels, integers ``[B, H, W]`` for binary and multiclass or ``[B, L, H, W]`` for multilabel. Terms that are `soft`
  also take class shares, floating point ``[B, C, H, W]``, NaN where ignored. Terms of the task `regression` take values instead
  of logits, and a target of real values; for those of the task `centres` see `rsseg.losses.terms.centres`.
* weight: ``[B, H, W]``, what each pixel counts for. An ignored pixel is one of weight 0.

Misfitting shapes and, in the first calls, labels outside the classes raise `InputError`.
"""
