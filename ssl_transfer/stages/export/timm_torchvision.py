"""Export a run's model as weights of timm or torchvision, alone or in a folder for the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.io.weight_files import save_tensors
from ssl_transfer.models.library_export import LibraryModel, library_model

from .check import Loaded
from .exported_model import Exported

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
_BICUBIC, _BILINEAR = 3, 2
"""Pillow's numbers of resampling filters."""


def write_weights(exported: Exported, folder: Path) -> str:
    """Write `model.safetensors`; return its usage."""
    model = library_model(exported.backbone, exported.classifier)
    tensors = {name: value.detach().contiguous() for name, value in model.model.state_dict().items()}
    save_tensors(folder / WEIGHTS, tensors)
    return _usage(exported, (*model.lines, "", *_LOADING))


def load_weights(exported: Exported, folder: Path) -> Loaded:
    """Load the file of `write_weights` into the library's model."""
    model = library_model(exported.backbone, exported.classifier).model
    model.load_state_dict(load_file(folder / WEIGHTS))
    return _normalised(exported, model)


def write_hub_folder(exported: Exported, folder: Path) -> str:
    """Write the weights, and `config.json` and `preprocessor_config.json` of the hub; return their usage.

    timm builds the model from `config.json` alone where its constructor does. Where it does not, or torchvision is the
    library, `config.json` has the lines that do.
    """
    usage = write_weights(exported, folder)
    model = library_model(exported.backbone, exported.classifier)
    if model.library == "timm" and not model.changes:
        content = _timm_config(exported, model)
        usage = _usage(exported, ("import timm", 'model = timm.create_model("local-dir:.", pretrained=True).eval()'))
    else:
        content = {"library": model.library, "architecture": model.name, "build": list(model.lines)}
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")
    write_text(folder / PREPROCESSOR, json.dumps(_preprocessor(exported), indent=2) + "\n")
    return usage


def load_hub_folder(exported: Exported, folder: Path) -> Loaded:
    """Load the folder of `write_hub_folder` like a user of the hub."""
    if not loads_by_name(folder):
        return load_weights(exported, folder)
    return _normalised(exported, timm.create_model(f"local-dir:{folder}", pretrained=True).eval())


def loads_by_name(folder: Path) -> bool:
    """Test if timm loads a folder of `write_hub_folder` from its `config.json` alone."""
    return "build" not in json.loads((folder / CONFIG).read_text(encoding="utf-8"))


_LOADING = (
    "from safetensors.torch import load_file",
    'model.load_state_dict(load_file("model.safetensors"))',
    "model.eval()",
)


def _usage(exported: Exported, lines: tuple[str, ...]) -> str:
    spec = exported.backbone.spec
    shape = (1, -1, 1, 1)
    imports = () if "import torch" in lines else ("import torch",)
    return "\n".join(
        (
            *imports,
            *lines,
            "",
            f"# images: float32 (batch, {spec.in_chans}, {spec.image_size}, {spec.image_size}) in 0..1",
            f"mean = torch.tensor({list(spec.mean)}).view{shape}",
            f"std = torch.tensor({list(spec.std)}).view{shape}",
            "with torch.inference_mode():",
            "    outputs = model((images - mean) / std)",
            "",
        )
    )


def _normalised(exported: Exported, model: torch.nn.Module) -> Loaded:
    spec = exported.backbone.spec
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))

    def run(images: Tensor) -> Tensor:
        return model((images - mean) / std)

    return run


def _timm_config(exported: Exported, model: LibraryModel) -> dict[str, Any]:
    """Build the configuration that `timm.create_model("local-dir:...")` and the hub read."""
    spec, built = exported.backbone.spec, model.model
    own: Any = built
    arguments = {name: value for name, value in model.arguments.items() if name != "num_classes"}
    labels = {"label_names": list(exported.run.classes)} if exported.run.classes else {}
    return {
        "architecture": model.name,
        "num_classes": len(exported.run.classes),
        "num_features": exported.backbone.num_features,
        **labels,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "",
            "custom_load": False,
            "input_size": [spec.in_chans, spec.image_size, spec.image_size],
            "fixed_input_size": exported.backbone.is_vit,
            "interpolation": spec.interpolation,
            "crop_pct": exported.crop,
            "crop_mode": "center",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": len(exported.run.classes),
            "pool_size": None,
            # The weights are for these channels already: timm is to fit no first layer to others.
            "first_conv": None,
            "classifier": own.pretrained_cfg["classifier"],
        },
    }


def _preprocessor(exported: Exported) -> dict[str, Any]:
    """Describe the preprocessing in the hub's format."""
    spec = exported.backbone.spec
    low, high = exported.run.storage.value_range
    # The hub's processors have a factor but no offset, so the offset is added to the mean.
    offset = low / (high - low)
    return {
        "do_resize": True,
        "size": {"shortest_edge": round(spec.image_size / exported.crop)},
        "do_center_crop": True,
        "crop_size": {"height": spec.image_size, "width": spec.image_size},
        "resample": _BICUBIC if spec.interpolation == "bicubic" else _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1.0 / (high - low),
        "do_normalize": True,
        "image_mean": [mean + offset for mean in spec.mean],
        "image_std": list(spec.std),
        "num_channels": spec.in_chans,
    }
