import resource
import sys

import pytest
import torch

from ssl_transfer.engine.distributed.device_memory import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_freed_memory_is_used_again():
    keep_freed_memory()
    torch.ones(2**21)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**21)  # 8 MB: 2,048 pages each time, where memory is returned
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2 * 2048
