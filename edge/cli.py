"""The command line: ``edge COMMAND``.

The composition root: it alone may import the host rooms, inside functions. The device's commands
(run, info, latency) need nothing but ``edge`` and an engine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

import edge
from edge.artifact import MANIFEST, load_artifact
from edge.detector import Detector, detector_feeds
from edge.errors import CheckoutError, EdgeError, ImageError, SpecError
from edge.latency import LatencySettings, measure
from edge.pipeline import Pipeline, Pose
from edge.pose import PoseEstimator, pose_feeds
from edge.session import EngineSettings, Session, default_threads, open_session
from edge.spec import Precision, Variant

if TYPE_CHECKING:
    from converters.chain import Row
    from converters.convert import ParityImages, Source

__all__ = ["console", "main"]

DEFAULT_MODEL = "rtmpose-t-demo"


def console() -> NoReturn:
    """Entry point of the ``edge`` command."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 it worked, 1 it did not (one clear line on stderr), 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    # An ended session and `kill` clean up like Ctrl-C does.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(arguments.run(arguments) or 0)
    except EdgeError as error:
        print(f"edge: {error}", file=sys.stderr)
    except BrokenPipeError:
        # The reader of our output left; there is nobody to tell.
        sys.stderr.close()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"edge: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("edge: interrupted; nothing half-written was left", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 1


def _interrupt(number: int, frame: object) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


# --- arguments ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge",
        description="Verified conversions of pose models, and a numpy-only runtime for them.",
        epilog="Start with: edge convert --target android   then: edge run --model "
        "build/android-sd865/rtmpose-t-demo-ncnn-fp16 PHOTO --out build/run",
    )
    parser.add_argument("--version", action="version", version=f"edgepose {edge.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> Any:
        added = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    convert = command("convert", _convert, "Convert models for a target and verify each artifact.")
    convert.add_argument("--target", default="android", help="target name (default: android)")
    convert.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="pose model: zoo name or ONNX file (default: %(default)s)",
    )
    convert.add_argument("--detector", help="detector as well: zoo name or ONNX file")
    convert.add_argument(
        "--formats",
        help="variants instead of the target's, comma-separated, for example onnx-fp32,ncnn-fp16",
    )
    convert.add_argument("--name", help="name of the pose model (default: after its file)")
    convert.add_argument("--spec", type=Path, help="TOML or JSON spec of the pose model's file")
    convert.add_argument("--size", type=_size, help="HxW of the detector's input (where dynamic)")
    convert.add_argument("--images", type=Path, help="folder of pictures to compare answers on")
    convert.add_argument("--out", type=Path, default=Path("build"), help="default: build")
    convert.add_argument("--force", action="store_true", help="convert even what is up to date")
    convert.add_argument(
        "--keep-failed", action="store_true", help="keep artifacts that fail parity, marked so"
    )
    convert.add_argument("--json", action="store_true", help="print the table as JSON")

    run = command("run", _run, "Find people in pictures: draws them and writes keypoints.")
    run.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture or folder")
    run.add_argument("--model", required=True, help="artifact folder, ONNX file or zoo name")
    run.add_argument("--detector", help="likewise; without one the whole picture is one box")
    run.add_argument("--out", type=Path, required=True, metavar="DIR")
    run.add_argument("--score", type=float, default=0.3, help="least box score (default: 0.3)")
    run.add_argument(
        "--keypoint-score", type=float, default=0.3, help="least score to draw (default: 0.3)"
    )
    run.add_argument(
        "--json", action="store_true", help="COCO results, to stdout and DIR/coco_results.json"
    )
    _add_engine(run)

    latency = command("latency", _latency, "Time a model on this machine (the network alone).")
    latency.add_argument("model", help="artifact folder, ONNX file or zoo name")
    latency.add_argument("--seconds", type=float, default=2.0, help="measure for (default: 2)")
    latency.add_argument("--json", action="store_true")
    _add_engine(latency)

    verify = command("verify", _verify, "Repeat the parity check of an artifact.")
    verify.add_argument("artifact", type=Path)
    verify.add_argument("--source", type=Path, help="the ONNX file it was made of, if it moved")
    verify.add_argument("--images", type=Path, help="folder of pictures to compare answers on")
    verify.add_argument("--allow-failed", action="store_true")
    verify.add_argument("--json", action="store_true")

    info = command("info", _info, "Show an artifact: spec, files, hashes, provenance, parity.")
    info.add_argument("artifact", type=Path)
    info.add_argument("--allow-failed", action="store_true")
    info.add_argument("--json", action="store_true")

    zoo = command("zoo", _zoo, "List the models that can be named.")
    zoo.add_argument("--json", action="store_true")

    synthetic = command("synthetic", _synthetic, "Write rendered people with COCO annotations.")
    synthetic.add_argument("--out", type=Path, required=True, metavar="DIR")
    synthetic.add_argument("--count", type=_count, default=16, help="pictures (default: 16)")
    synthetic.add_argument("--seed", type=int, default=7, help="same seed, same pictures")
    synthetic.add_argument("--crops", action="store_true", help="one person that fills a picture")
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=_count,
        default=default_threads(),
        help="CPU threads of the engine (default here: %(default)s)",
    )
    parser.add_argument(
        "--inference-precision",
        choices=["fp32", "fp16"],
        help="arithmetic the engine may use (default: the variant's own)",
    )
    parser.add_argument(
        "--allow-failed", action="store_true", help="use artifacts that failed their parity check"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, for example 320x320")
    return int(height), int(width)


# --- host commands --------------------------------------------------------------------------------


def _need_checkout(command: str) -> None:
    missing = [
        room
        for room in ("converters", "calibration", "targets")
        if importlib.util.find_spec(room) is None
    ]
    if missing:
        raise CheckoutError(
            f"`edge {command}` needs a checkout of edgepose (the wheel holds the device runtime "
            "only): clone the repository and run `make setup` in it"
        )


def _convert(arguments: argparse.Namespace) -> int:
    _need_checkout("convert")
    from converters.convert import convert_model
    from converters.zoo import find_source
    from targets.profile import load_profile

    profile = load_profile(arguments.target)
    variants = profile.variants
    if arguments.formats:
        variants = tuple(Variant.parse(text) for text in arguments.formats.split(","))
    if arguments.size and not arguments.detector:
        raise SpecError("--size is the detector's input size, and no --detector was given")
    sources = [find_source(arguments.model, name=arguments.name, spec_file=arguments.spec)]
    if arguments.detector:
        sources.append(find_source(arguments.detector, input_hw=arguments.size))
    if len({source.name for source in sources}) < len(sources):
        raise SpecError(f"both models are called {sources[0].name!r}; choose a name with --name")

    table = _Table(arguments.json)
    out_dir = arguments.out / profile.name
    folders = []
    for source in sources:
        folders += convert_model(
            source,
            variants,
            out_dir,
            _parity_images(arguments.images),
            table.add,
            force=arguments.force,
            keep_failed=arguments.keep_failed,
        )
    table.end()
    if not arguments.json:
        _say_next(sources, variants, folders)
    return 0


def _say_next(
    sources: Sequence[Source], variants: Sequence[Variant], folders: Sequence[Path]
) -> None:
    print("\nartifacts:")
    for folder in folders:
        print(f"  {folder}")
    program = "edge" if shutil.which("edge") else os.path.relpath(Path(sys.prefix) / "bin" / "edge")
    command = f"{program} run --model {folders[0]}"
    if len(sources) > 1:
        command += f" --detector {folders[len(variants)]}"
    print(f"next:\n  {command} PHOTO.jpg --out build/run\n  {program} info {folders[0]}")


def _parity_images(folder: Path | None) -> ParityImages:
    """The pictures of a folder, or rendered people; made when first asked for."""
    from calibration.images import (
        PARITY_SEED,
        folder_fingerprint,
        folder_images,
        synthetic_images,
    )
    from converters.convert import ParityImages
    from converters.parity import NamedFeeds

    counts = {"pose": 8, "detection": 4}

    def feeds(spec: edge.ModelSpec) -> list[NamedFeeds]:
        pose = spec.task == "pose"
        images = (
            folder_images(folder) if folder else synthetic_images(counts[spec.task], crops=pose)
        )
        return [
            NamedFeeds(
                image.name,
                pose_feeds(spec, image.image_bgr, image.boxes_xyxy[:1])[0]
                if pose
                else detector_feeds(spec, image.image_bgr)[0],
            )
            for image in images
        ]

    text = (
        folder_fingerprint(folder)
        if folder
        else f"synthetic people, seed {PARITY_SEED} "
        f"({counts['pose']} crops or {counts['detection']} scenes)"
    )
    return ParityImages(text, feeds)


def _verify(arguments: argparse.Namespace) -> int:
    _need_checkout("verify")
    from converters.convert import verify_artifact

    report = verify_artifact(
        arguments.artifact,
        _parity_images(arguments.images),
        source_path=arguments.source,
        allow_failed=arguments.allow_failed,
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(_parity_lines(report.to_json())))
    report.raise_if_failed()
    return 0


def _zoo(arguments: argparse.Namespace) -> int:
    _need_checkout("zoo")
    from converters.zoo import zoo_entries

    entries = zoo_entries()
    if arguments.json:
        print(json.dumps(entries, indent=2))
    else:
        for name, entry in entries.items():
            print(f"{name:<20} {entry['description']}")
    return 0


def _synthetic(arguments: argparse.Namespace) -> int:
    _need_checkout("synthetic")
    from calibration.synthetic import coco_annotations, crop_scene, scene
    from edge.picture import write_bytes, write_image

    arguments.out.mkdir(parents=True, exist_ok=True)
    make = crop_scene if arguments.crops else scene
    scenes = [make(arguments.seed, index) for index in range(arguments.count)]
    annotations = coco_annotations(scenes)
    for made, entry in zip(scenes, annotations["images"], strict=True):
        write_image(arguments.out / entry["file_name"], made.image_bgr)
    write_bytes(arguments.out / "annotations.json", json.dumps(annotations).encode())
    people = len(annotations["annotations"])
    print(f"{arguments.count} pictures with {people} people in {arguments.out}")
    return 0


class _Table:
    """Rows as they come, or all at once as JSON."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        if not self._as_json:
            if not self._rows:
                print(f"{'model':<22} {'step':<22} {'time':>8} {'size':>9}  verdict")
            size = "" if row.size_bytes is None else f"{row.size_bytes / 1e6:.2f} MB"
            print(
                f"{row.model:<22} {row.step:<22} {row.seconds:>6.2f} s {size:>9}  {row.verdict}",
                flush=True,
            )
        self._rows.append(row)

    def end(self) -> None:
        if self._as_json:
            print(json.dumps([row.__dict__ for row in self._rows], indent=2))


# --- device commands ------------------------------------------------------------------------------


def _open(text: str, arguments: argparse.Namespace) -> Session:
    """A session of an artifact folder, or (in a checkout) of an untouched ONNX file."""
    path = Path(text)
    precision: Precision | None = arguments.inference_precision
    if path.is_dir() or (path / MANIFEST).is_file():
        artifact = load_artifact(path, allow_failed=arguments.allow_failed)
        own: Precision = "fp16" if artifact.variant.precision == "fp16" else "fp32"
        return open_session(artifact, EngineSettings(arguments.threads, precision or own))
    _need_checkout("run with an ONNX file")
    from converters.onnx_file import load_onnx
    from converters.recognise import recognise
    from converters.zoo import find_source
    from edge.engines.onnxruntime import OnnxRuntimeSession

    source = find_source(text)
    spec = recognise(load_onnx(source.path), source.path, source.name).source_spec
    return OnnxRuntimeSession(source.path, spec, EngineSettings(arguments.threads))


def _run(arguments: argparse.Namespace) -> int:
    from edge.picture import draw_poses, find_images, read_image, write_bytes, write_image

    paths = find_images(arguments.images)
    names = [path.name for path in paths]
    for path in paths:
        if names.count(path.name) > 1:
            raise ImageError(f"two pictures are called {path.name}; run them into two folders")
        if (arguments.out / path.name).resolve() == path.resolve():
            raise ImageError(f"{path}: --out would overwrite it; choose another folder")
        # All are looked at before the first is written: a damaged one among a thousand should not
        # be found after an hour.
        read_image(path)
    with ExitStack() as stack:
        pose = PoseEstimator(stack.enter_context(_open(arguments.model, arguments)))
        detector = None
        if arguments.detector:
            session = stack.enter_context(_open(arguments.detector, arguments))
            detector = Detector(session, score_threshold=arguments.score, label=0)
        pipeline = Pipeline(pose, detector)
        keypoints = pose.session.spec.keypoints
        arguments.out.mkdir(parents=True, exist_ok=True)
        pictures, results = [], []
        for index, path in enumerate(paths):
            image = read_image(path)
            poses = pipeline(image)
            drawn = draw_poses(image, poses, keypoints, arguments.keypoint_score)
            write_image(arguments.out / path.name, drawn)
            pictures.append(_picture_json(path, image, poses, keypoints.keypoints))
            image_id = int(path.stem) if path.stem.isdigit() else index + 1
            results += [_coco_result(image_id, one) for one in poses]
            if not arguments.json:
                people = "1 person" if len(poses) == 1 else f"{len(poses)} people"
                print(f"{path}: {people} -> {arguments.out / path.name}")
    text = json.dumps({"keypoint_set": keypoints.name, "pictures": pictures}, indent=1)
    write_bytes(arguments.out / "poses.json", text.encode())
    if arguments.json:
        write_bytes(arguments.out / "coco_results.json", json.dumps(results).encode())
        print(json.dumps(results))
    else:
        print(f"keypoints -> {arguments.out / 'poses.json'}")
    return 0


def _picture_json(
    path: Path, image: np.ndarray[Any, Any], poses: Sequence[Pose], names: Sequence[str]
) -> dict[str, Any]:
    return {
        "file": path.name,
        "height_px": image.shape[0],
        "width_px": image.shape[1],
        "people": [
            {
                "box_xyxy": _rounded(pose.box_xyxy, 2),
                "box_score": round(pose.box_score, 4),
                "keypoints": {
                    name: [*_rounded(point[:2], 2), *_rounded(point[2:], 4)]
                    for name, point in zip(names, pose.keypoints, strict=True)
                },
            }
            for pose in poses
        ],
    }


def _coco_result(image_id: int, pose: Pose) -> dict[str, Any]:
    """One entry of COCO's results format; ``score`` is mmpose's bbox_keypoint score."""
    x1, y1, x2, y2 = pose.box_xyxy
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": _rounded(np.array([x1, y1, x2 - x1, y2 - y1]), 2),
        "keypoints": _rounded(pose.keypoints.reshape(-1), 4),
        "score": round(pose.score, 4),
    }


def _rounded(values: np.ndarray[Any, Any], digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


def _latency(arguments: argparse.Namespace) -> int:
    settings = LatencySettings(
        min_duration_s=arguments.seconds, max_duration_s=max(60.0, 2 * arguments.seconds)
    )
    with _open(arguments.model, arguments) as session:
        spec = session.spec
        shape = (session.max_batch or 1, 3, *spec.input_hw)
        # Noise, not zeros: denormals and sparse inputs can flatter or slow an engine.
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        result = measure(lambda: session.run({spec.input.name: noise}), settings)
        row = {
            "model": spec.name,
            "engine": session.engine,
            "inference_precision": session.inference_precision,
            "threads": arguments.threads,
            "input_shape": list(shape),
            "samples": len(result.samples_ns),
            **{f"p{p}_ms": round(result.percentile_ms(p), 3) for p in (50, 90, 99)},
            "mean_ms": round(result.mean_ms, 3),
            "valid": result.valid,
            "reasons": list(result.reasons),
        }
    if arguments.json:
        print(json.dumps(row, indent=2))
    else:
        for key, value in row.items():
            print(f"{key:<20} {value}")
    return 0 if result.valid else 1


def _info(arguments: argparse.Namespace) -> int:
    artifact = load_artifact(arguments.artifact, allow_failed=arguments.allow_failed)
    if arguments.json:
        print(json.dumps(artifact.to_json(), indent=2))
        return 0
    spec = artifact.spec
    lines = [f"{spec.name} as {artifact.variant}" + (" (FAILED)" if artifact.failed else "")]
    lines.append("spec:")
    for key, value in spec.to_json().items():
        if key == "input":
            value = f"{value['name']} {value['shape']} {value['dtype']}"
        elif key == "outputs":
            value = ", ".join(f"{tensor['name']} {tensor['shape']}" for tensor in value)
        lines.append(f"  {key:<26} {value}")
    lines.append("files:")
    for role, name in artifact.files.items():
        size = (artifact.folder / name).stat().st_size
        lines.append(f"  {role:<10} {name}  {size} bytes  sha256 {artifact.sha256[name]}")
    lines.append("made of:")
    shown = ("file", "sha256", "path", "images", "scale_norms_made_fp16_safe")
    lines += [f"  {key:<26} {artifact.source[key]}" for key in shown if key in artifact.source]
    lines.append("made with:")
    lines.append("  " + ", ".join(f"{name} {version}" for name, version in artifact.tools.items()))
    lines += _parity_lines(artifact.parity)
    print("\n".join(lines))
    return 0


def _parity_lines(parity: dict[str, Any]) -> list[str]:
    if not parity:
        return ["parity: never compared"]
    lines = [
        f"parity: {parity['summary']}",
        f"  {parity['engine']} computing in {parity['inference_precision']} on "
        f"{parity['machine']}, against {parity['reference']}",
        f"  {parity['image_count']} images: {parity['images']}",
    ]
    lines += [
        f"  {t['name']:<16} max abs {t['max_abs']:.3g}, mean abs {t['mean_abs']:.3g}, "
        f"cosine >= {t['cosine_min']:.7f}"
        for t in parity["tensors"]
    ]
    if parity.get("fp16_peak"):
        peak = parity["fp16_peak"]
        lines.append(
            f"  largest value inside {peak['max_abs']:.4g} ({peak['tensor']}), FP16 ends at "
            f"{peak['limit']:g}"
        )
    return lines + [f"  FAILURE {failure}" for failure in parity["failures"]]
