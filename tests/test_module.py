"""What the module does to a batch before the network sees it."""

import lightning as L
import pytest
import torch
from torch import nn

from rsseg.contract import IGNORE, Batch
from rsseg.data.augment import CutOut
from rsseg.module import SegmentationModule
from rsseg.task import Binary


@pytest.mark.parametrize("training", [True, False])
def test_batches_are_normalised_then_augmented_in_training_alone(training):
    stored = torch.randint(0, 255, (2, 2, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = []

    def watch(image, layers, k):
        seen.append(image)
        return image + 1, layers

    module = SegmentationModule(
        nn.Identity(),
        losses={},
        tasks={"mask": Binary(("a",))},
        mean=[100, 50],
        std=[10, 20],
        scenes=1,
        augmentations=[watch, CutOut(1, count=1, size=(0.5, 0.5))],
    )
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.training = training
    module.trainer = trainer
    mask = torch.zeros(2, 16, 16, dtype=torch.uint8)
    batch = module.on_after_batch_transfer(Batch(image=stored, mask=mask, scene=torch.zeros(2), k=torch.arange(2)), 0)
    normal = torch.stack([(stored[:, 0].double() - 100) / 10, (stored[:, 1].double() - 50) / 20], dim=1).float()
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    if training:
        torch.testing.assert_close(seen[0], normal)
        hole = batch["mask"] == IGNORE
        assert hole.sum() == 2 * 8 * 8
        torch.testing.assert_close(batch["image"], torch.where(hole[:, None], 0, normal + 1))
    else:
        assert seen == []
        torch.testing.assert_close(batch["image"], normal)
        assert torch.equal(batch["mask"], mask)
