"""What mmpose's own codecs decode from synthetic maps; runs in .venv-openmmlab.

    .venv-openmmlab/bin/python codecs.py OUT.npz

Every map has one peak, at a known place between the cells, on a little noise: no answer hangs on
which of two maxima is a hair higher. OUT.npz gets ``heatmaps`` (N, K, h, w), ``simcc_x`` and
``simcc_y`` (N, K, bins), ``peaks`` (N, K, 2) in cells of the heatmaps, and under each name of
DECODINGS the real answers (N, K, 3): x, y in input pixels, score.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np

SIZES: dict[str, Any] = {"input_size": (192, 256), "heatmap_size": (48, 64)}
SIGMA_XY = (4.9, 5.66)  # in bins, of RTMPose at 256x192

# Name: (codec of mmpose, its arguments, the fields of the kit's spec).
DECODINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "shift": ("MSRAHeatmap", SIZES | {"sigma": 2}, {"heatmap_refinement": "shift"}),
    **{
        f"dark-{kernel}": (
            "MSRAHeatmap",
            SIZES | {"sigma": 2, "unbiased": True, "blur_kernel_size": kernel},
            {"heatmap_refinement": "dark", "heatmap_blur_kernel": kernel},
        )
        for kernel in (11, 17)
    },
    **{
        f"udp-{kernel}": (
            "UDPHeatmap",
            SIZES | {"sigma": 2, "blur_kernel_size": kernel},
            {"heatmap_refinement": "dark-udp", "heatmap_blur_kernel": kernel, "udp": True},
        )
        for kernel in (7, 11, 17)
    },
    **{
        f"megvii-{kernel}": (
            "MegviiHeatmap",
            SIZES | {"kernel_size": kernel},
            {"heatmap_refinement": "megvii", "heatmap_blur_kernel": kernel},
        )
        for kernel in (5, 9, 11, 17)
    },
    "simcc": (
        "SimCCLabel",
        {"input_size": (192, 256), "sigma": SIGMA_XY, "simcc_split_ratio": 2.0},
        {"simcc_split_ratio": 2.0},
    ),
    "simcc-standard": (
        "SimCCLabel",
        {"input_size": (192, 256), "smoothing_type": "standard", "simcc_split_ratio": 2.0},
        {"simcc_split_ratio": 2.0},
    ),
}


def bells(places: Any, size: int, sigma: float) -> Any:
    """Gaussians (N, K, size) of height 1 around places (N, K)."""
    return np.exp(-np.square(np.arange(size) - places[..., None]) / (2 * sigma**2))


def synthetic_maps() -> dict[str, Any]:
    """Heatmaps and distributions of one peak each, some of them at the rim."""
    rng = np.random.default_rng(7)
    width, height = SIZES["heatmap_size"]
    # Beyond the last cells too: such peaks have their maximum at the rim.
    peaks = rng.uniform(-0.7, [width - 0.3, height - 0.3], (8, 17, 2))
    tall = rng.uniform(0.2, 1.2, (8, 17))
    across, down = (bells(peaks[..., axis], size, 2) for axis, size in ((0, width), (1, height)))
    maps = down[..., :, None] * across[..., None, :] * tall[..., None, None]
    found = {"peaks": peaks, "heatmaps": maps + rng.normal(0, 0.004, maps.shape)}
    for axis, (key, size) in enumerate((("simcc_x", 384), ("simcc_y", 512))):
        # A cell is four pixels of the input, which are eight bins.
        values = bells(peaks[..., axis] * 8 + 3.5, size, SIGMA_XY[axis]) * tall[..., None]
        found[key] = values + rng.normal(0, 0.004, values.shape)
    # Nothing found: every value below 0.
    found["heatmaps"][0, 0] = -1 - found["heatmaps"][0, 0]
    found["simcc_x"][0, 0] = -1 - found["simcc_x"][0, 0]
    return {key: value.astype(np.float32) for key, value in found.items()}


def main() -> None:
    """Decode all maps by every codec."""
    import stand_ins

    warnings.simplefilter("ignore")
    stand_ins.install()
    from mmengine.registry import init_default_scope
    from mmpose.registry import KEYPOINT_CODECS
    from mmpose.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    init_default_scope("mmpose")
    found = synthetic_maps()
    for name, (kind, arguments, _) in DECODINGS.items():
        codec = KEYPOINT_CODECS.build({"type": kind, **arguments})
        people = []
        for person in range(len(found["peaks"])):
            keys = ("simcc_x", "simcc_y") if "SimCC" in kind else ("heatmaps",)
            # In place is how some codecs work.
            points, scores = codec.decode(*(found[key][person].copy() for key in keys))
            people.append(np.concatenate([points[0], np.reshape(scores, (-1, 1))], axis=1))
        found[name] = np.stack(people)
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
