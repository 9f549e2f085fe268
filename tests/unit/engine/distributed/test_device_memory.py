import subprocess
import sys

import pytest

FAULTS = """
import resource

import torch

from ssl_transfer.engine.distributed.device_memory import keep_freed_memory

keep_freed_memory()
_ = [torch.ones(2**20) for _ in range(64)]
del _
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for megabytes in range(20, 31):
    torch.ones(megabytes * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_freed_memory_is_used_again():
    # A process of its own: other tests' threads cause page faults, too.
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    # 256 MB were freed. By default each larger allocation, 275 MB in all, maps new pages of 4 kB: 70,400 page faults.
    assert int(run.stdout) < 70_400 / 4, run.stderr
