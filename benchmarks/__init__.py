"""Ratios of speed, measured in one run with the contestants in turn: ``python -m benchmarks``.

All of it is measured on the CPU but :mod:`benchmarks.gpu`.
"""

import os


def hide_gpus() -> None:
    """Keep this process, and those that it starts, off the GPUs.

    The programs call it, and not the import: the tests import this package too, and have tests of their own for a GPU.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
