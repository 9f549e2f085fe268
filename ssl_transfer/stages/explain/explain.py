"""Explain a network with figures, tables and one page: `ssl-transfer explain`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io import ownership
from ssl_transfer.evaluation.predictions import grad_cam
from ssl_transfer.evaluation.predictions.attack_table import AttackPlan, Outcome, RunName, outcomes
from ssl_transfer.evaluation.predictions.attacks import Attack
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.models.init_names import BASELINES, is_timm
from ssl_transfer.stages.common.checkpoint_data import own_images
from ssl_transfer.stages.common.run import Run

from . import attacks as explain_attacks
from . import page as explain_page
from . import subject as explained
from . import views
from .config import ExplainConfig, What, check, names_of, parts_of
from .subject import Subject

MOST_IDEALS = 100


def explain(config: ExplainConfig) -> Path:
    """Draw and write all requested explanations.

    Returns:
        The page.
    """
    runs = [Run(Path(path)) for path in config.runs]
    if runs:
        data, loading = own_images(runs[0], config.data, config.loading)
        config = replace(config, data=data, loading=loading)
    epsilons = check(config)
    names = [replace(name, start=_start_of(run)) for name, run in zip(names_of(config.runs), runs, strict=True)]
    wanted = [parts_of(config.what, run) for run in runs]
    runtime = runtimes.start()
    if "all" in config.what and any(run.has_head for run in runs) and not grad_cam.is_installed():
        runtime.say(f"left out: {grad_cam.NEEDS}")
    output = config.output or Path("runs") / f"explain-{names[0].name.replace('/', '-')}"
    ownership.own_folder(output)
    sections: list[explain_page.Section] = []
    found: list[Outcome] = []
    for run, name, parts in zip(runs, names, wanted, strict=True):
        subject = _load(config, run, name.name, runtime, parts)
        folder = output if len(names) == 1 else output / name.name
        sections += _looked_at(config, subject, parts, folder, runtime, epsilons[-1])
        if "attacks" in parts:
            found += _measured(config, subject, name, runtime, epsilons)
    if len({(one.condition, one.images) for one in found}) > len({one.condition for one in found}):
        raise InputError(
            "The runs are measured on different images of --data, as what one was trained on is left out. Give data "
            "that none has seen, or explain them one by one."
        )
    if found:
        sections.insert(0, explain_attacks.table(output, found, split=config.split))
    page = output / "explain.html"
    explain_page.write(page, ", ".join(name.name for name in names), sections)
    runtime.say(f"written: {page}")
    return page


def _start_of(run: Run) -> str:
    """Return the run whose weights a run starts from or learns from; empty from scratch or public weights."""
    start = str(run.settings.get("teacher") or run.settings.get("init", "scratch"))
    return "" if start in BASELINES or is_timm(start) else str(Path(start).resolve())


def _load(config: ExplainConfig, run: Run, name: str, runtime: Runtime, wanted: Sequence[What]) -> Subject:
    # Files alone need no data for what is found in them.
    needed = not config.images or bool({"neighbours", "attacks"} & set(wanted))
    return explained.load(
        run,
        name,
        runtime,
        data=config.data if needed else "",
        loading=config.loading,
        files=config.images,
        split=config.split,
        count=config.num_images,
    )


def _looked_at(
    config: ExplainConfig, subject: Subject, wanted: Sequence[What], folder: Path, runtime: Runtime, epsilon: float
) -> list[explain_page.Section]:
    """Build the sections about single images."""
    makers: dict[What, Callable[[], explain_page.Section]] = {
        "maps": lambda: views.feature_maps(subject, folder, names=config.blocks, channels=config.channels),
        "neighbours": lambda: views.neighbours(subject, folder, runtime, count=config.neighbours),
    }
    if subject.classifier is not None:
        classifier: Classifier = subject.classifier
        target = _target(config, subject)
        makers |= {
            "grad-cam": lambda: views.class_activation(subject, classifier, folder, names=config.blocks),
            "ideal": lambda: views.ideals(
                subject,
                classifier,
                folder,
                classes=range(min(MOST_IDEALS, len(subject.classes))),
                steps=config.steps,
                variation_weight=config.tv,
                seed=config.seed,
            ),
            "attacks": lambda: explain_attacks.examples(
                subject,
                classifier,
                folder,
                attacks=attacks(config.pgd_steps)[1::2],
                epsilon=epsilon,
                target=target,
                seed=config.seed,
            ),
        }
    sections = []
    for part in wanted:
        runtime.say(f"{subject.name}: {part}")
        sections.append(makers[part]())
    return sections


def attacks(pgd_steps: int) -> tuple[Attack, ...]:
    """Return FGSM and PGD, away from the true class and towards another."""
    return tuple(
        replace(attack, targeted=targeted)
        for targeted in (False, True)
        for attack in (Attack(name="fgsm", targeted=False), Attack(name="pgd", targeted=False, steps=pgd_steps))
    )


def _target(config: ExplainConfig, subject: Subject) -> int | None:
    if config.target and config.target not in subject.classes:
        raise InputError(
            f"--target {config.target}: the classes are {', '.join(subject.classes[:20])}."
            f"{did_you_mean(config.target, subject.classes)}"
        )
    return subject.classes.index(config.target) if config.target else None


def _measured(
    config: ExplainConfig, subject: Subject, run: RunName, runtime: Runtime, epsilons: Sequence[float]
) -> list[Outcome]:
    dataset, classifier = subject.dataset, subject.classifier
    if dataset is None or classifier is None or (dataset.labels[dataset.splits[config.split]] < 0).any():
        raise InputError("--what attacks needs images with classes. Give --data that has some.")
    plan = AttackPlan(
        attacks=attacks(config.pgd_steps), epsilons=epsilons, target=_target(config, subject), seed=config.seed
    )
    indices = explained.spread(dataset, config.split, config.attack_images)
    return outcomes(classifier, dataset, indices, runtime, run=run, plan=plan)


def main(arguments: Sequence[str], program: str = "ssl-transfer explain") -> None:
    """Run `explain RUN... [flags]`."""
    settings, rest = configuration.take_config(arguments)
    explain(configuration.parse(ExplainConfig, settings, rest, program=program, default=ExplainConfig()))
