"""Pretrain a backbone without labels: one file a method, all listed in `METHODS`.

To add a method, write `methods/NAME.py` that ends with `METHOD = Method(...)`, and add its line to `METHODS`. The
command line, `compare` and the contract tests find it there.
"""

from . import autoencoder, barlow_twins, byol, dino, mae, moco, mocov3, simclr, simsiam, vicreg
from .base import Method

METHODS: dict[str, Method] = {
    "simclr": simclr.METHOD,
    "moco": moco.METHOD,
    "mocov3": mocov3.METHOD,
    "byol": byol.METHOD,
    "simsiam": simsiam.METHOD,
    "barlow": barlow_twins.METHOD,
    "vicreg": vicreg.METHOD,
    "dino": dino.METHOD,
    "mae": mae.METHOD,
    "autoencoder": autoencoder.METHOD,
}
