"""A line of the native runner."""

from __future__ import annotations

from typing import Any

__all__ = ["LINE"]

LINE: dict[str, Any] = {
    "schema": 1,
    "kind": "edgepose-runner",
    "build": {"runner": 1, "ncnn": "1.0.20261020", "arch": "aarch64", "kernels": ["arm82"]},
    "precision": "fp16",
    "computes_in": "fp16",
    "threads": 2,
    "cpu_mask": "f0",
    "affinity": ["f0", "f0"],
    "affinity_after": ["f0", "f0"],
    "cpu": {"count": 8, "big": 4, "little": 4, "features": {"asimdhp": True, "i8mm": False}},
    "openmp_environment": ["OMP_WAIT_POLICY=active"],
    "load_ns": 20_000_000,
    "first_inference_ns": 15_000_000,
    "pipeline": None,
    "warmup_count": 5,
    "warmup_ns": 60_000_000,
    "complete": True,
    "clocks": [
        {"samples": 0, "t_ns": 0, "khz": [None, 1800000]},
        {"samples": 3, "t_ns": 31, "khz": [None, 1700000]},
    ],
    "usage": {"user_ns": 1, "system_ns": 2, "involuntary_switches": 3, "major_faults": 0},
    "peak_memory_kb": None,
    "outputs": [
        {
            "name": "x",
            "shape": [1, 17, 384],
            "non_finite": 0,
            "same_in_last": True,
            "file": "0-x.bin",
        }
    ],
    "samples_ns": [9_000_000, 9_100_000, 9_050_000],
    "starts_ns": [100, 9_000_200, 18_100_300],
}
