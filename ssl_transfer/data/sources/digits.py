"""List `digits`: scikit-learn's 1,797 handwritten digits, 8 x 8 grey (UCI, Alpaydin and Kaynak 1998)."""

import numpy as np

from ssl_transfer.data.dataset import PARTS
from ssl_transfer.data.store.columns import Stored, in_memory
from ssl_transfer.data.store.content_key import fixed
from ssl_transfer.data.store.listing import NAMES, Listing


def read() -> tuple[Listing, Stored]:
    """Return the listing and the pixels, which the library holds decoded."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # The values run from 0 to 16.
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    listing = Listing(
        items=pixels,
        key=fixed("digits"),
        names=np.array([f"digits[{index}]" for index in range(len(pixels))], NAMES),
        labels=bunch.target.astype(np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        parts=np.full(len(pixels), PARTS.index("train"), np.int8),
    )
    return listing, in_memory(pixels)
