"""Pictures to keypoints, against rtmlib and mmdeploy's runtime, in one run: `make bench-peers`.

Each contender lives in a process of its own (`contender.py`, which says how the same threads are
given to all) with the same two networks: the peers on the SDK bundles' ONNX files, whose detector
has its suppression inside, ours on artifacts of the same source. They take turns, every other
round in the opposite order, while the others wait on a read; before each turn everybody has a
moment to fall asleep. A round's figure is the median of its calls, a ratio that of two figures of
the same round, and what counts is the rounds' median with its bootstrap interval (5 to 95 %).

``whole`` is the complete call on a picture with one or four people, with the contender's own boxes;
``pose`` is the pose part alone in boxes that are the same for all. Everybody's answers are held
against ours in float32 (`peer_verdicts.py` has the limits): whoever is beyond them is WRONG, no
ratio of theirs is a result, and the script exits with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

from edge.errors import ToolError
from tests.benches.bench_harness import machine, printed_by
from tests.benches.bench_streams import table as streams_table
from tests.benches.peer_inputs import Models, find_models, find_pictures
from tests.benches.peer_processes import Process, others_share, processes, start
from tests.benches.peer_verdicts import Difference, Ratio, Target, difference, ratio, rounds_ms
from tests.benches.runtime_memory import GROWTH_LIMIT_MB, OWN_LIMIT_MB
from tests.stand_ins.make_goal import end_with

Json = dict[str, Any]
REFERENCE = "ours onnx"
CONTENDERS = (
    *("rtmlib onnxruntime", "rtmlib openvino", "mmdeploy"),
    *(REFERENCE, "ours openvino", "ours default"),
)
PEOPLE = (1, 4)
CASES = tuple((what, people) for what in ("whole", "pose") for people in PEOPLE)
TARGETS = (
    *(Target("ours onnx", "rtmlib onnxruntime", people, 1.15) for people in PEOPLE),
    *(Target("ours openvino", "rtmlib openvino", people, 1.15) for people in PEOPLE),
    Target("ours default", "rtmlib onnxruntime", 1, 2.0),
    Target("ours default", "rtmlib onnxruntime", 4, 2.5),
    *(Target("ours default", "mmdeploy", people, 1.8) for people in PEOPLE),
)
FORMATS = "onnx-fp32,openvino-fp32,openvino-fp16,openvino-int8,tflite-int8"
AROUND_LIMIT = 0.10
NOT_QUIET = 0.05
_PROGRAM = [sys.executable, "-m", "tests.benches.runtime_memory"]
MEMORY = {"frames": [*_PROGRAM, "frames", "10000"], "own": [*_PROGRAM, "own"]}


def configs(models: Models, threads: int, names: Sequence[str]) -> dict[str, Json]:
    """What each contender is started with; the precision of ours on OpenVINO comes later."""
    both = {"threads": threads}
    files = {"detector": str(models.detector_onnx), "pose": str(models.pose_onnx)}
    sizes = {"detector_hw": models.detector_hw, "pose_hw": models.pose_hw}
    peer = {"kind": "rtmlib", **both, **files, **sizes}
    bundles = {part: str(Path(file).parent) for part, file in files.items()}
    kit = {"kind": "ours", **both}
    fixed = {
        part: [[str(folder), "fp32"] for folder in models.folders(part)]
        for part in ("onnx-fp32", "openvino-fp32")
    }
    found: dict[str, Json] = {
        "rtmlib onnxruntime": {**peer, "backend": "onnxruntime"},
        "rtmlib openvino": {**peer, "backend": "openvino"},
        "mmdeploy": {"kind": "mmdeploy", **both, **bundles},
        **{
            name: {**kit, "detector": fixed[variant][0], "pose": fixed[variant][1]}
            for name, variant in ((REFERENCE, "onnx-fp32"), ("ours openvino", "openvino-fp32"))
        },
    }
    if "ours default" in names:
        argv = [sys.executable, "-m", "tests.benches.peer_choice", str(models.folder), str(threads)]
        chosen = json.loads(printed_by(argv))
        for name, row in chosen["measured"].items():
            time_ms = "-" if row["ms"] is None else f"{row['ms']:.2f} ms"
            print(f"  {name:<44} {time_ms:>9}  {row['reason']}", file=sys.stderr)
        found["ours default"] = {**kit, **{part: chosen[part] for part in ("detector", "pose")}}
    return {name: found[name] for name in CONTENDERS if name in names}


def start_all(stack: ExitStack, wanted: dict[str, Json], threads: int) -> dict[str, Process]:
    """The contenders that can be had; ToolError without the one that all are held against."""
    running: dict[str, Process] = {}
    for name, config in wanted.items():
        if name == "ours openvino" and "rtmlib openvino" in running:
            precision = running["rtmlib openvino"].about["precision"]
            for part in ("detector", "pose"):
                config[part][1] = precision
        try:
            running[name] = stack.enter_context(start(name, config, threads))
        except ToolError as error:
            print(f"bench_peers: {name} takes no part: {error}", file=sys.stderr)
    if REFERENCE not in running:
        raise ToolError(f"without {REFERENCE!r} there is nothing to hold answers against")
    return running


# --- the run --------------------------------------------------------------------------------------


def hold_answers(
    running: dict[str, Process], groups: dict[int, list[int]]
) -> tuple[dict[str, Difference], dict[int, list[Any]]]:
    """Everybody's answers against the reference's, whole and in given boxes, and these boxes."""
    indices = [index for people in PEOPLE for index in groups[people]]
    reference = {index: running[REFERENCE].ask("answers", index, None) for index in indices}
    found = {}
    for name, one in running.items():
        want, got = [], []
        for index in indices:
            want += [reference[index]] * 2
            got += [one.ask("answers", index, boxes) for boxes in (None, reference[index][0])]
        found[name] = difference(want, got)
    boxes = {people: [reference[index][0] for index in groups[people]] for people in PEOPLE}
    return found, boxes


def run(
    running: dict[str, Process],
    groups: dict[int, list[int]],
    boxes: dict[int, list[Any]],
    rounds: int,
    repeat: int,
) -> Json:
    """Samples in ns: of each case and contender the rounds, of each round the calls."""
    cases = {f"{what} {people}": (what, people) for what, people in CASES}
    samples: Json = {case: {name: [] for name in running} for case in cases}
    samples["around"] = {name: [] for name in running if name.startswith("ours")}
    awake: list[float] = []
    for number in range(rounds):
        order = list(running) if number % 2 == 0 else list(reversed(running))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for case, (what, people) in cases.items():
            given = boxes[people] if what == "pose" else None
            for name in order:
                answer, share = running[name].turn(
                    list(running.values()), "timed", groups[people], given, repeat
                )
                samples[case][name].append(answer)
                awake.append(share)
        for name in order:
            if name in samples["around"]:
                answer, _ = running[name].turn(list(running.values()), "tracked", groups[1], repeat)
                samples["around"][name].append(answer)
    return {"samples_ns": samples, "others_awake": mean(awake)}


def ratios(samples: Json) -> dict[str, Ratio]:
    """``OURS / PEER, CASE`` for each of ours and each peer."""
    found = {}
    for what, people in CASES:
        case = f"{what} {people}"
        times = {name: rounds_ms(turns) for name, turns in samples[case].items()}
        for ours in times:
            for peer in times:
                if ours.startswith("ours") and not peer.startswith("ours"):
                    found[f"{ours} / {peer}, {case}"] = ratio(times[ours], times[peer])
    return found


def around(samples: Json) -> dict[str, float]:
    """Everything outside of the networks as a share of the networks' time, with a tracker."""
    shares = {}
    for name, turns in samples["around"].items():
        calls = [call for turn in turns for call in turn]
        if any(network <= 0 for _, network in calls):
            raise ToolError(f"{name}: the networks were not seen: is a session run past its run?")
        shares[name] = median((total - network) / network for total, network in calls)
    return shares


# --- what is said ---------------------------------------------------------------------------------


def times_table(samples: Json, differences: dict[str, Difference], abouts: Json) -> list[str]:
    """Medians over all rounds, with the range of the rounds' medians below."""
    form = "{:<20} {:>10} {:>10} {:>10} {:>10} {:>10}  {}"
    lines = [
        form.format("", "detector", "1 person", "4 people", "pose, 1", "pose, 4", "keypoints off")
    ]
    for name, off in differences.items():
        columns = [rounds_ms(samples["whole 1"][name], 1)]
        columns += [rounds_ms(samples[f"{what} {people}"][name]) for what, people in CASES]
        said = (
            f"median {off.median_px:.2f} px ({off.median_share:.2%} of a person), "
            f"9 of 10 within {off.nine_of_ten_share:.1%}, most {off.max_px:.1f} px"
        )
        verdict = f"WRONG: {off.wrong}" if off.wrong else said
        lines.append(
            form.format(name, *(f"{median(one):.2f} ms" for one in columns), verdict).rstrip()
        )
        ranges = (f"{min(one):.1f}-{max(one):.1f}" for one in columns)
        lines.append(form.format("", *ranges, abouts[name]["summary"]).rstrip())
    return lines


def targets_table(found: dict[str, Ratio], differences: dict[str, Difference]) -> list[str]:
    """Each claim beside its figure."""
    lines = []
    for target in TARGETS:
        if target.ours not in differences or target.peer not in differences:
            continue
        one = found.get(f"{target.ours} / {target.peer}, whole {target.people}")
        figure = f"{one.median:.2f} times ({one.low:.2f}-{one.high:.2f})" if one else "-"
        people = "1 person" if target.people == 1 else f"{target.people} people"
        lines.append(
            f"{target.ours:<14} against {target.peer:<19} {people}: {figure:<24} "
            f"wanted {target.at_least:g}: {target.verdict(one, differences)}"
        )
    return lines


def around_table(shares: dict[str, float]) -> list[str]:
    """What everything around the networks costs."""
    return [
        f"around the networks, {name}, one person, tracked: {share:.1%} of their time, "
        f"limit {AROUND_LIMIT:.0%}: {'met' if share <= AROUND_LIMIT else 'NOT MET'}"
        for name, share in shares.items()
    ]


def memory_table(found: Json) -> list[str]:
    """What the runtime holds."""
    growth, own = found["frames"]["growth_mb"], found["own"]["resident_mb"]
    return [
        f"memory after {text}: {mb:.2f} MB, limit {limit:g}: {'met' if mb < limit else 'NOT MET'}"
        for text, mb, limit in (
            ("10,000 frames, more than before them", growth, GROWTH_LIMIT_MB),
            ("a picture, without engine but with Python and numpy", own, OWN_LIMIT_MB),
        )
    ]


def compare(arguments: argparse.Namespace) -> tuple[Json, list[str], bool]:
    """The whole comparison: what was found, the lines to read, and whether all answers are right"""
    models = find_models(arguments)
    threads = arguments.threads
    with ExitStack() as stack:
        wanted = configs(models, threads, arguments.only)
        running = start_all(stack, wanted, threads)
        pictures, groups = find_pictures(running[REFERENCE], arguments.images, PEOPLE)
        for one in running.values():
            one.ask("pictures", pictures)
        differences, boxes = hold_answers(running, groups)
        with processes(running.values()) as load:
            found = run(running, groups, boxes, arguments.rounds, arguments.repeat)
        abouts = {}
        for name, one in running.items():
            used = one.ask("usage")
            abouts[name] = {**one.about, **used}
            abouts[name]["summary"] = (
                f"{one.about['engine']}, {one.about['precision']}; "
                f"{used['busy_threads']} threads, {used['busy_cpus']:.1f} CPUs"
            )
    samples = found["samples_ns"]
    pairs = ratios(samples)
    shares = around(samples)
    quiet = load["others"] + load["stolen"] <= NOT_QUIET
    lines = [
        f"{models.about}; {len(groups[1])} + {len(groups[4])} pictures, {threads} threads, "
        f"{arguments.rounds} rounds of {arguments.repeat} calls a picture",
        f"other programs took {load['others']:.1%} of the CPUs, the host {load['stolen']:.1%}"
        + ("" if quiet else ": NOT QUIET, take no figure for a result"),
        f"those who waited computed for {found['others_awake']:.1%} of a turn's time",
        "",
        *times_table(samples, differences, abouts),
        "",
        *targets_table(pairs, differences),
        *around_table(shares),
    ]
    report = {
        "models": models.about,
        "folder": str(models.folder),
        "quiet": quiet,
        "load": load,
        "others_awake": found["others_awake"],
        "contenders": abouts,
        "differences": {name: asdict(off) for name, off in differences.items()},
        "ratios": {name: asdict(one) for name, one in pairs.items()},
        "around": shares,
        "samples_ns": samples,
    }
    return report, lines, not any(off.wrong for off in differences.values())


def main() -> int:
    """Run what was asked for; 1 where answers are wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, default=CONTENDERS, metavar="NAME,NAME")
    parser.add_argument("--rounds", type=int, default=15, help="5 or more (default: 15)")
    parser.add_argument("--repeat", type=int, default=5, help="calls a picture (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="of everybody (default: 2)")
    parser.add_argument("--model", default="rtmpose-t-demo", help="pose model: name or .onnx")
    parser.add_argument("--detector", default="rtmdet-nano-demo", help="name or .onnx")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos (default: rendered)")
    parser.add_argument("--build", type=Path, metavar="DIR", help="converted artifacts to take")
    parser.add_argument(
        "--formats", default=FORMATS, help=f"to choose ours from (default: {FORMATS})"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/peers"), help="for all that is made"
    )
    parser.add_argument("--no-streams", action="store_true", help="leave batches and streams out")
    parser.add_argument("--memory", action="store_true", help="over 10,000 frames as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error("--rounds is 5 or more: the median of fewer says nothing")
    report: Json = {"machine": {**machine(), "others before": f"{others_share(1.0):.1%}"}}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), flush=True)
    found, lines, right = compare(arguments)
    print("\n".join(lines), flush=True)
    report["peers"] = found
    if not arguments.no_streams:
        argv = [sys.executable, "-m", "tests.benches.bench_streams", found["folder"], "--json"]
        report["streams"] = json.loads(printed_by([*argv, "--threads", str(arguments.threads)]))
        print("\n".join(["", *streams_table(report["streams"])]), flush=True)
    if arguments.memory:
        report["memory"] = {name: json.loads(printed_by(argv)) for name, argv in MEMORY.items()}
        print("\n".join(["", *memory_table(report["memory"])]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if right else 1


def _names(text: str) -> list[str]:
    given = text.split(",")
    if wrong := [name for name in given if name not in CONTENDERS]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(CONTENDERS)}")
    return [name for name in CONTENDERS if name in given or name == REFERENCE]


if __name__ == "__main__":
    end_with("bench_peers", main)
