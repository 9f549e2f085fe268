"""What two processes do for test_method_gradients.py: `method_gradients.py FOLDER`, under torch.distributed.run.

Every process writes what it has into FOLDER/rank<n>.pt.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from ssl_transfer.engine.contract import Batch
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.engine.runtime import Runtime, start
from ssl_transfer.methods import METHODS
from ssl_transfer.models import backbones, initialize
from ssl_transfer.models.backbones import BackboneConfig

NAMES = ("byol", "simsiam", "dino", "mocov3")
NUM_IMAGES, STEPS = 8, 3
SMALLER = {"dino": {"output_width": 16, "frozen_steps": 1, "local_crops": 2}}


def batch_of(step: int, process_index: int, num_processes: int) -> Batch:
    """This process's share of eight images of random blocks."""
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(NUM_IMAGES, 1, 4, 4, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    whole = Batch(images, torch.full((NUM_IMAGES,), -1), sample_keys(0, step, torch.arange(NUM_IMAGES)))
    share = torch.arange(NUM_IMAGES).chunk(num_processes)[process_index]
    return Batch(*(part[share] for part in whole))


def trained(name: str, runtime: Runtime) -> dict[str, dict[str, Tensor]]:
    """Gradients of the last of some plain steps, and the state behind it.

    The backbone has no BatchNorm; that of the heads, whose statistics are each process's own, normalises as in
    evaluation.
    """
    spec = backbones.make_spec(
        BackboneConfig(name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=1", "num_heads=2")),
        in_chans=1,
        image_size=16,
        mean=(0.5,),
        std=(0.5,),
    )
    entry = METHODS[name]
    backbone = initialize.scratch(spec, seed=0)
    torch.manual_seed(0)
    method = entry.build(backbone, entry.config(**SMALLER.get(name, {}))).train()
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    wrapped = runtime.accelerator.prepare_model(method)
    optimizer = torch.optim.SGD([parameter for parameter in method.parameters() if parameter.requires_grad], lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        wrapped(batch_of(step, runtime.process_index, runtime.num_processes)).loss.backward()
        optimizer.step()
        method.after_step(step / STEPS)
    gradients = {key: value.grad for key, value in method.named_parameters() if value.grad is not None}
    return {"gradients": gradients, "state": {key: value.clone() for key, value in method.state_dict().items()}}


def main() -> None:
    torch.set_num_threads(1)
    runtime = start()
    held = {name: trained(name, runtime) for name in NAMES}
    torch.save(held, Path(sys.argv[1]) / f"rank{runtime.process_index}.pt")
    runtime.wait()


if __name__ == "__main__":
    main()
