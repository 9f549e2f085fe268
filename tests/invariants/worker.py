"""What two processes do for test_two_processes.py: `worker.py FOLDER`, under torch.distributed.run, twice on the CPU.

Every process writes what it has into FOLDER/rank<n>.pt.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_transfer.data.sources import LoadingConfig, load
from ssl_transfer.engine import distributed
from ssl_transfer.engine.runtime import Runtime, start
from ssl_transfer.methods.simclr import SimCLR
from ssl_transfer.models import backbones, initialize
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.stages import phases
from ssl_transfer.stages import transfer as stage


def projections() -> Tensor:
    """Two views of six images, (2, 6, 5)."""
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


def contrast_gradient(process_index: int, num_processes: int) -> tuple[Tensor, Tensor]:
    """NT-Xent of this process's images, and its gradient with respect to the projections of all."""
    spec = backbones.make_spec(
        BackboneConfig(name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=1", "num_heads=2")),
        in_chans=1,
        image_size=16,
        mean=(0.5,),
        std=(0.5,),
    )
    from ssl_transfer.methods import METHODS

    entry = METHODS["simclr"]
    method = entry.build(initialize.scratch(spec, seed=0), entry.config())
    assert isinstance(method, SimCLR)
    views = projections().requires_grad_()
    mine = views[:, process_index::num_processes]
    loss = method.criterion(mine[0], mine[1])
    loss.backward()
    assert views.grad is not None
    return loss.detach(), views.grad


def transferred_state(runtime: Runtime, output: Path) -> dict[str, dict[str, Tensor]]:
    """This process's weights and buffers after each phase of a transfer run, by the phase."""
    held: dict[str, dict[str, Tensor]] = {}
    train = phases.train

    def traced(objective: Any, *arguments: Any, **settings: Any) -> Any:
        summary = train(objective, *arguments, **settings)
        held[settings["phase"]] = {name: value.clone() for name, value in objective.state_dict().items()}
        return summary

    phases.train = traced
    config = stage.TransferConfig(
        image_size=16,
        labels="5",
        batch_size=20,
        epochs=1,
        head_steps=6,
        finetune_steps=6,
        output=output,
        backbone=BackboneConfig(
            name="resnet10t",
            stem="standard",
            arguments=("stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
        ),
    )
    stage.transfer(config, runtime=runtime, dataset=load("digits", image_size=16, config=LoadingConfig()))
    phases.train = train
    return held


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    runtime = start()
    loss, gradient = contrast_gradient(runtime.process_index, runtime.num_processes)
    rows = torch.arange(3) * 2 + runtime.process_index
    held = {
        "loss": loss,
        "gradient": gradient,
        "gathered": distributed.gather_without_gradient(rows),
        "transferred": transferred_state(runtime, folder / "transfer"),
    }
    torch.save(held, folder / f"rank{runtime.process_index}.pt")
    runtime.wait()


if __name__ == "__main__":
    main()
