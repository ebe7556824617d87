"""Ratios of speed, measured in one run with the contestants in turn: ``python -m benchmarks``. All of it on the CPU."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
