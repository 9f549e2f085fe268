"""What two processes do for test_gathered_gradients.py: `gathered_worker.py FOLDER`, under torch.distributed.run.

Every method whose loss depends on the batch, on half of a batch, in the wrapper that training uses. Process n writes
what it has into FOLDER/rank<n>.pt.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_transfer.engine import distributed
from ssl_transfer.engine.contract import Batch, Objective
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.engine.runtime import start
from ssl_transfer.methods import METHODS
from ssl_transfer.models import backbones, initialize
from ssl_transfer.models.backbones import BackboneConfig

OVER_BATCH = [name for name, entry in METHODS.items() if entry.module.loss_over_batch]
NUM_IMAGES = 16


def batch(seed: int) -> Batch:
    """Sixteen images of random blocks, (16, 1, 16, 16)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(NUM_IMAGES, 1, 4, 4, generator=generator)
    images = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return Batch(images, torch.full((NUM_IMAGES,), -1), sample_keys(seed, 0, torch.arange(NUM_IMAGES)))


def part(whole: Batch, index: int, count: int) -> Batch:
    """One of `count` processes' share of a batch."""
    return Batch(*(tensor.chunk(count)[index] for tensor in whole))


def method(name: str) -> Objective:
    """The method on a tiny transformer, with LayerNorm in place of the projectors' BatchNorm.

    BatchNorm normalises what a process has, so that two processes are never one where it is. Any norm of each image by
    itself leaves the method's own dependence on the batch, which is what is tested.
    """
    spec = backbones.make_spec(
        BackboneConfig(name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=1", "num_heads=2")),
        in_chans=1,
        image_size=16,
        mean=(0.5,),
        std=(0.5,),
    )
    backbone = initialize.scratch(spec, seed=0)
    torch.manual_seed(0)
    entry = METHODS[name]
    objective = entry.build(backbone, entry.config())
    for parent in list(objective.modules()):
        for key, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d):
                norm = nn.LayerNorm(child.num_features)
                # A momentum encoder's stays frozen.
                setattr(parent, key, norm.requires_grad_(all(one.requires_grad for one in parent.parameters())))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in objective.modules())
    return objective.train()


def trained(objective: Objective, wrapped: nn.Module, index: int, count: int) -> dict[str, Any]:
    """Loss, gradients and state without gradient of the second of two batches; the first fills queues and centres."""
    with torch.no_grad():
        wrapped(part(batch(0), index, count))
    output = wrapped(part(batch(1), index, count))
    output.loss.backward()
    gradients: dict[str, Tensor] = {
        key: value.grad for key, value in objective.named_parameters() if value.grad is not None
    }
    # Of the state alone: lightly's NT-Xent has the buffers of a memory bank that is not used, never written.
    state = objective.state_dict()
    buffers = {key: value for key, value in objective.named_buffers() if key in state}
    return {"loss": output.loss.detach(), "gradients": gradients, "buffers": buffers}


def main() -> None:
    torch.set_num_threads(1)
    runtime = start()
    held: dict[str, Any] = {}
    for name in OVER_BATCH:
        objective = method(name)
        wrapped = runtime.accelerator.prepare_model(objective)
        held[name] = trained(objective, wrapped, runtime.process_index, runtime.num_processes)
    rows = torch.arange(6.0).view(3, 2).add(10.0 * runtime.process_index).requires_grad_()
    gathered = distributed.gather(rows.T.contiguous().T)
    # Each process weighs the rows otherwise.
    (gathered * torch.arange(12.0).view(6, 2) * (runtime.process_index + 1)).sum().backward()
    held["gather"] = {"rows": gathered.detach(), "gradient": rows.grad}
    torch.save(held, Path(sys.argv[1]) / f"rank{runtime.process_index}.pt")
    runtime.wait()


if __name__ == "__main__":
    main()
