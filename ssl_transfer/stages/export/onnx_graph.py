"""Export a run's model as a graph: ONNX, or torch.export, with normalisation and any batch size."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ssl_transfer.engine.errors import InputError

from .check import Loaded
from .exported_model import Exported

ONNX, TORCH_EXPORT = "model.onnx", "model.pt2"
ONNX_USAGE = """\
import onnxruntime

# images: float32 (batch, {channels}, {size}, {size}) in 0..1
session = onnxruntime.InferenceSession("model.onnx")
(outputs,) = session.run(None, {{"images": images}})
"""
TORCH_USAGE = """\
import torch

# images: float32 (batch, {channels}, {size}, {size}) in 0..1
model = torch.export.load("model.pt2").module()
outputs = model(images)
"""


def write_onnx(exported: Exported, folder: Path) -> str:
    """Write `model.onnx`; return its usage."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        remedy = 'Install it with: pip install "ssl_transfer[export]"'
        raise InputError(f"--format onnx: needs {error.name}. {remedy}") from error
    with _quiet("onnx"):
        torch.onnx.export(
            exported.module,
            (_example(exported),),
            str(folder / ONNX),
            input_names=["images"],
            output_names=[exported.output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return _filled(ONNX_USAGE, exported)


def load_onnx(folder: Path) -> Loaded:
    """Load the file of `write_onnx` with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / ONNX), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_torch_export(exported: Exported, folder: Path) -> str:
    """Write `model.pt2`; return its usage."""
    with _quiet("torch-export"):
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(exported.module, (_example(exported),), dynamic_shapes=shapes)
        torch.export.save(program, folder / TORCH_EXPORT)
    return _filled(TORCH_USAGE, exported)


def load_torch_export(folder: Path) -> Loaded:
    """Load the file of `write_torch_export`."""
    with _quiet("torch-export"):
        return torch.export.load(folder / TORCH_EXPORT).module()


def _example(exported: Exported) -> Tensor:
    """Return two images: with one, the batch size would be exported as a constant."""
    spec = exported.backbone.spec
    return torch.zeros(2, spec.in_chans, spec.image_size, spec.image_size)


def _filled(usage: str, exported: Exported) -> str:
    spec = exported.backbone.spec
    return usage.format(channels=spec.in_chans, size=spec.image_size)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Suppress the exporters' internal messages; raise InputError on failure."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:  # Each of the many passes raises a kind of its own.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"--format {name}: this model becomes no graph ({first}). Try another format.") from error
    finally:
        logging.disable(logging.NOTSET)
