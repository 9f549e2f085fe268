"""Train in two CPU processes for test_two_processes.py: `worker.py FOLDER` under torch.distributed.run.

Every process writes what it has into FOLDER/rank<n>.pt.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.data.sources import LoadingConfig, load
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.distributed.runtime import Runtime, start
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, parameter_groups
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.engine.training.early_stopping import StoppingConfig, Watched
from ssl_transfer.engine.training.loop import train
from ssl_transfer.engine.training.lr_finder import RangeTest, find_learning_rate
from ssl_transfer.engine.training.training_settings import Saving, TrainingPlan
from ssl_transfer.engine.training.validation import Validation
from ssl_transfer.evaluation.features.extract import over_images
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.methods.simclr import SimCLR
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig
from ssl_transfer.stages.transfer import phases
from ssl_transfer.stages.transfer import transfer as stage
from ssl_transfer.stages.transfer.config import TransferConfig


def projections() -> Tensor:
    """Two views of six images, (2, 6, 5)."""
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))


def tiny_transformer() -> backbones.BackboneSpec:
    """Without BatchNorm, whose statistics are each process's own."""
    return backbones.make_spec(
        BackboneConfig(name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=1", "num_heads=2")),
        in_chans=1,
        image_size=16,
        mean=(0.5,),
        std=(0.5,),
    )


def contrast_gradient(process_index: int, num_processes: int) -> tuple[Tensor, Tensor]:
    """NT-Xent of this process's images, and its gradient with respect to the projections of all."""
    from ssl_transfer.methods import METHODS

    entry = METHODS["simclr"]
    method = entry.module(pretrained.scratch(tiny_transformer(), seed=0), entry.config())
    assert isinstance(method, SimCLR)
    views = projections().requires_grad_()
    mine = views[:, process_index::num_processes]
    loss = method.criterion(mine[0], mine[1])
    loss.backward()
    assert views.grad is not None
    return loss.detach(), views.grad


def phased_state(runtime: Runtime, folder: Path) -> dict[str, Any]:
    """Weights, steps, best epoch and last rate after each of two phases with every setting of the loop on.

    20 images a step: of one process in parts of 7, 7 and 6, of each of two in parts of 4, 3 and 3.
    """
    dataset = load("digits", image_size=16, config=LoadingConfig())
    torch.manual_seed(0)
    backbone, num_classes = pretrained.scratch(tiny_transformer(), seed=0), len(dataset.classes)
    head = make_head(HeadConfig(), backbone, num_classes)
    objective = Supervised(backbone, head, SupervisedConfig(), num_classes=num_classes)
    indices, validation = dataset.splits["train"][:60], dataset.splits["validation"][:40]
    loader = Loader(dataset, indices, batch_size=20, seed=0, runtime=runtime, labelled=True)
    optimizer = OptimizerConfig(
        name="sgd",
        learning_rate=0.1,
        warmup_steps=2,
        schedule="plateau",
        plateau_patience=0,
        clip_norm=1.0,
        accumulate=3,
        ema_decay=0.5,
    )

    def evaluate() -> dict[str, float]:
        logits = over_images(objective.logits, dataset, validation, runtime, "evaluating")
        return classification(logits, dataset.labels[validation])

    held: dict[str, Any] = {}
    # A search before the training leaves nothing behind, its wrapper included.
    objective.set_trained("all")
    groups = parameter_groups(objective, learning_rate=0.1, weight_decay=0.01)
    found = find_learning_rate(
        objective, groups, loader, optimizer=optimizer, seed=0, runtime=runtime, test=RangeTest(steps=30)
    )
    held["curve"] = [row["loss"] for row in found.rows]
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / "metrics.jsonl"
    tracker = Tracker(metrics, TrackingConfig(), runtime, settings={}, group="", job_type="")
    for trained in ("head", "all"):
        objective.set_trained(trained)
        summary = train(
            objective,
            parameter_groups(objective, learning_rate=0.1, weight_decay=0.01),
            loader,
            plan=TrainingPlan(phase=trained, epochs=8, seed=0, optimizer=optimizer),
            saving=Saving(
                tracker=tracker,
                metrics_path=metrics,
                states=StateFiles(folder=folder, name=trained, best=f"{trained}.best"),
            ),
            runtime=runtime,
            validation=Validation(
                evaluate=evaluate,
                watched=Watched(metric="log_loss", higher_is_better=False),
                stopping=StoppingConfig(patience=3),
            ),
        )
        held[trained] = {name: value.clone() for name, value in objective.state_dict().items()}
        held[f"{trained} summary"] = [summary.steps, summary.best_epoch]
    return held


def transferred_state(runtime: Runtime, output: Path) -> dict[str, dict[str, Tensor]]:
    """This process's weights and buffers after each phase of a transfer run, by the phase."""
    held: dict[str, dict[str, Tensor]] = {}
    train = phases.train

    def traced(objective: Any, *arguments: Any, **settings: Any) -> Any:
        summary = train(objective, *arguments, **settings)
        held[settings["plan"].phase] = {name: value.clone() for name, value in objective.state_dict().items()}
        return summary

    phases.train = traced
    config = TransferConfig(
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
    # Not contiguous, and each process weighs them otherwise.
    pairs = torch.arange(6.0).view(2, 3).add(10.0 * runtime.process_index).requires_grad_()
    gathered = collectives.gather(pairs.T)
    (gathered * torch.arange(12.0).view(6, 2) * (runtime.process_index + 1)).sum().backward()
    held = {
        "loss": loss,
        "gradient": gradient,
        "gathered": collectives.gather_without_gradient(rows),
        "gathered pairs": gathered.detach(),
        "gradient of pairs": pairs.grad.T,
        "transferred": transferred_state(runtime, folder / "transfer"),
        "phased": phased_state(runtime, folder / "phased"),
    }
    torch.save(held, folder / f"rank{runtime.process_index}.pt")
    runtime.wait()


if __name__ == "__main__":
    main()
