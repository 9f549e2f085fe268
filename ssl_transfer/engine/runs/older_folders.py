"""List the files of a run's folder without a whole record, as an older version wrote none."""

import re
from pathlib import Path

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.json_files import read_json
from ssl_transfer.engine.io.ownership import MARKER

_ENVIRONMENT = "environment.json"
_KEYS = {"identity", "command", "python", "packages", "devices"}
"""Keys of `environment.json` in every version."""
_NAMES = re.compile(
    r"\.lock|config\.yaml|(environment|tracking|result|seal|speeds|failure|comparison)\.json|metrics\.jsonl|predicted\.npy"
    r"|(results|summary|curves|confusions|embeddings|diagnosis|label_value|transfer_benefits|learning_rates)\.csv"
    r"|test_hits\.npz|report\.(md|html)|(views|reconstructions|learning_rates|label_efficiency|learning_curves)\.png"
    r"|(cost|accuracy|features|distillation|embeddings|confusion_(best|worst|most|least)_[a-z]+)\.png"
    r"|(backbone|head)/(backbone|head)\.(json|safetensors)|backbone/seen\.npy"
    r"|(trials/\d+/)?checkpoints/(last|best|[a-z]+(\.best)?)\.pt(\.\d+)?(\.damaged)?"
    r"|trials/\d+/(trial\.json|metrics\.jsonl|tracking\.json)|slurm/submitted\.json"
    r"|evaluation/(metrics\.json|(per_class|predictions|predictions_validation)\.csv|examples/\d+\.png)"
    r"|evaluation/(confusion|reliability|curves)\.png"
)
"""Files of version 0.1 and of this one, relative to the folder of a run or of a comparison."""


def has_begun(folder: Path) -> bool:
    """Check for `environment.json` of a run, by its content."""
    file = folder / _ENVIRONMENT
    if not file.is_file():
        return False
    try:
        return read_json(file, remedy="").keys() >= _KEYS
    except (InputError, OSError):
        return False


def files_of(folder: Path) -> list[Path]:
    """List the files in a folder of a run that have names of an older version; none where it holds no run."""
    if not has_begun(folder):
        return []
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.is_symlink()
        and MARKER not in path.relative_to(folder).parts
        and _NAMES.fullmatch(path.relative_to(folder).as_posix())
    ]
