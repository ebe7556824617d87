"""The benchmarks, which report ratios of speed with the contestants timed in turn: ``python -m benchmarks``.

Everything is measured on the CPU except by :mod:`benchmarks.gpu`.
"""

import os


def hide_gpus() -> None:
    """Hide the GPUs from this process and those that it starts.

    The programs call this function rather than the import of the package, since the tests import the package too and
    some of them need a GPU.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
