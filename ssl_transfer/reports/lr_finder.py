"""Write the result of the learning-rate range test: `learning_rates.csv` and a figure of its curve."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from ssl_transfer.engine.training.lr_finder import Finding
from ssl_transfer.evaluation.comparison import write_tables

from .evaluation import write_picture

COLUMNS = ("step", "learning_rate", "loss", "smoothed_loss")


def write(folder: Path, found: Finding) -> None:
    """Write both into `folder`."""
    write_tables.write_lines(
        folder / "learning_rates.csv", COLUMNS, [[row[name] for name in COLUMNS] for row in found.rows]
    )
    write_picture(folder / "learning_rates.png", draw(found))


def draw(found: Finding) -> bytes:
    """Draw the loss over the learning rate, as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rates = [row["learning_rate"] for row in found.rows]
    axes.plot(rates, [row["loss"] for row in found.rows], color="0.7", linewidth=1, label="each batch")
    axes.plot(rates, [row["smoothed_loss"] for row in found.rows], color="#0072B2", linewidth=2, label="smoothed")
    axes.axvline(found.suggestion, color="#D55E00", linestyle="--", label=f"suggestion {found.suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
