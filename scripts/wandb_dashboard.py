"""Build a workspace in wandb for this project's runs: losses, kNN, rank, domains, accuracy against labels, by arm.

pip install "ssl_transfer[dashboard]"
python scripts/wandb_dashboard.py ENTITY/PROJECT
python scripts/wandb_dashboard.py ENTITY/PROJECT --dry-run     # its JSON, and nothing is sent
"""

import argparse
import json
import os
import sys

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces

from ssl_transfer.methods import METHODS

NAME = "ssl_transfer"
METHOD = f"^({'|'.join(METHODS)})"
"""What the metrics of a pretraining begin with."""
PHASE = "^(head|finetune)(-[0-9]+)?"
"""The same of a plan: transfer, adaptation, distillation."""
PRETRAINING = {
    "loss": f"{METHOD}/train/loss$",
    "kNN accuracy, validation": f"{METHOD}/validation/knn_accuracy$",
    "effective rank, validation": f"{METHOD}/validation/effective_rank$",
    "deviation of the features": f"{METHOD}/train/feature_deviation$",
    "collapse alarms: effective rank": f"{METHOD}/alarm/.*",
    "learning rate": f"{METHOD}/train/learning_rate$",
    "images per second": f"{METHOD}/train/images_per_second$",
}
"""By a panel's title, the metrics that it shows."""
TRANSFER = {
    "loss": f"{PHASE}/train/loss$",
    "accuracy, validation": f"{PHASE}/validation/accuracy$",
    "log-loss, validation": f"{PHASE}/validation/log_loss$",
    "learning rate": f"{PHASE}/train/learning_rate$",
    "images per second": f"{PHASE}/train/images_per_second$",
}
DOMAINS = {
    "distance of the domains": f"{PHASE}/train/domain_distance$",
    "A-distance, validation": f"{PHASE}/validation/a_distance$",
    "accuracy of the discriminator": f"{PHASE}/train/discriminator_accuracy$",
    "information in the target's predictions": f"{PHASE}/validation/information$",
    "neighbourhood density in the target": f"{PHASE}/validation/density$",
    "self-training: share of sure predictions": f"{PHASE}/train/sure$",
}
DISTILLATION = {"agreement with the teacher": f"{PHASE}/train/agreement$"}
PICTURES = ("views", "reconstructions", "confusion", "reliability", "curves")


def workspace(entity: str, project: str) -> workspaces.Workspace:
    """Define the workspace; nothing is sent."""
    accuracy = [
        panels.ScatterPlot(title="test accuracy over labelled images", x="num_train", y="chosen/accuracy", log_x=True),
        panels.BarPlot(title="test accuracy", metrics=["chosen/accuracy"], groupby=panels.Config("arm")),
        panels.BarPlot(title="test accuracy of the head", metrics=["head/accuracy"], groupby=panels.Config("arm")),
    ]
    pictures = [panels.MediaBrowser(title=name, media_keys=[name]) for name in PICTURES]
    sections = [
        workspaces.Section(name="Accuracy", panels=accuracy, is_open=True),
        workspaces.Section(name="Pretraining", panels=_lines(PRETRAINING), is_open=True),
        workspaces.Section(name="Transfer", panels=_lines(TRANSFER)),
        workspaces.Section(name="Adaptation", panels=_lines(DOMAINS)),
        workspaces.Section(name="Distillation", panels=_lines(DISTILLATION)),
        workspaces.Section(name="Pictures", panels=pictures),
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Config("arm")]),
    )


def _lines(shown: dict[str, str]) -> list[panels.LinePlot]:
    return [panels.LinePlot(title=title, x="step", metric_regex=regex) for title, regex in shown.items()]


def main(arguments: list[str]) -> None:
    """Print its JSON, or save it and print its address."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", help="ENTITY/PROJECT, as in the address of the project's page")
    parser.add_argument("--dry-run", action="store_true", help="print its JSON; nothing is sent")
    asked = parser.parse_args(arguments)
    entity, slash, project = asked.place.partition("/")
    if not (entity and slash and project) or "/" in project:
        parser.error(f"{asked.place}: ENTITY/PROJECT, as in my-team/ssl_transfer")
    # Send nothing beyond the requested logs.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    made = workspace(entity, project)
    if asked.dry_run:
        print(json.dumps(made._to_model().model_dump(mode="json", by_alias=True, exclude_none=True), indent=2))
    else:
        made.save()
        print(made.url)


if __name__ == "__main__":
    main(sys.argv[1:])
