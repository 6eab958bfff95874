"""The host's side of ``edge bench``: connect, convert, compare, time, and say what came of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from edge.artifact import Artifact, load_artifact
from edge.errors import DeviceError, SpecError
from edge.latency import LatencySettings
from edge.terminal import say
from targets.bench import BenchOptions, Candidate, TargetDevice, bench
from targets.commands.arm import target_artifacts
from targets.commands.bench_work import BenchWork
from targets.devices.preparation import PrepareOptions, check_idle
from targets.devices.state import DeviceInfo, check_device, read_device
from targets.profile import Profile, load_profile
from targets.report.tables import text_report
from targets.result import EMULATED, RunResult
from targets.transports.opening import open_target, password_prompt

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Time artifacts on a target."""
    profile = load_profile(str(arguments.profile or arguments.target))
    if arguments.lock_clocks and profile.kind != "jetson":
        raise SpecError(f"--lock-clocks is for a Jetson, target {profile.name} is {profile.kind}")
    settings = _settings(arguments, profile)
    ask = password_prompt()
    with ExitStack() as stack:
        # A device that is not there is found before the conversions, not after.
        transport, watch = (
            stack.enter_context(
                closing(open_target(profile, host=arguments.host, serial=arguments.serial, ask=ask))
            )
            for _ in range(2)
        )
        place = TargetDevice(profile, transport, watch, read_device(transport))
        check_device(place.info, profile)
        check_idle(transport)
        say(_shown(place.info))
        artifacts, failures = _artifacts(arguments, profile)
        work = BenchWork(arguments, place, stack)
        candidates = work.candidates(artifacts)
        runs: list[RunResult] = []
        by_name: dict[str, list[RunResult]] = {one.name: [] for one in candidates}

        def on_run(candidate: Candidate, run: RunResult, path: Path) -> None:
            runs.append(run)
            by_name[candidate.name].append(run)
            p50 = "no samples" if run.summary.p50_ms is None else f"p50 {run.summary.p50_ms:.2f} ms"
            why = f": {'; '.join(run.reasons)}" if run.reasons and not run.emulated else ""
            say(f"  {p50}, {run.verdict}{why} -> {path}")

        try:
            failures += bench(
                place,
                candidates,
                settings,
                arguments.out / "results",
                BenchOptions(
                    arguments.repeat,
                    PrepareOptions(
                        stay_awake=not arguments.leave_settings,
                        fixed_performance=not arguments.leave_settings,
                        lock_clocks=arguments.lock_clocks,
                    ),
                    cool_down=not arguments.no_cooldown,
                ),
                on_run=on_run,
                say=say,
            )
        except DeviceError as error:
            failures.append(str(error))  # the runs before it are told all the same
    if arguments.json:
        print(json.dumps([run.to_json() for run in runs], indent=1))
    elif runs:
        print(text_report(runs))
        say(f"next: edge report {arguments.out / 'results'} --html {arguments.out}/report.html")
    failures += work.failures + _unproven(candidates, by_name)
    for failure in failures:
        say(f"edge: {failure}")
    return 1 if failures else 0


def _shown(info: DeviceInfo) -> str:

    known = [text for text in (info.model, info.soc, info.os) if text]
    emulated = f" ({EMULATED})" if info.emulated else ""
    return f"{info.name}: {', '.join(known) or 'says nothing of itself'}{emulated}"


def _settings(arguments: argparse.Namespace, profile: Profile) -> LatencySettings:
    """The profile's, but for what the command line says."""
    given = {
        "warmup_count": arguments.warmup_count,
        "warmup_duration_s": arguments.warmup_seconds,
        "min_count": arguments.min_count,
        "min_duration_s": arguments.min_seconds,
        "max_duration_s": arguments.max_seconds,
        "pause_s": None if arguments.pause_ms is None else arguments.pause_ms / 1000,
    }
    settings = profile.latency_settings(arguments.mode)
    try:
        return replace(settings, **{key: v for key, v in given.items() if v is not None})
    except ValueError as error:
        raise SpecError(str(error)) from None


def _artifacts(arguments: argparse.Namespace, profile: Profile) -> tuple[list[Artifact], list[str]]:
    """The artifacts that were named, or the target's own, converted where they are missing."""
    load = [Path(text) for text in arguments.artifacts]
    failures: list[str] = []
    if not load:
        for made in target_artifacts(arguments, profile):
            if made.error is None:
                load.append(made.folder)
            else:
                failures.append(f"{made.model} {made.variant}: {made.error}")
    artifacts = [load_artifact(path, allow_failed=arguments.allow_failed) for path in load]
    names = [f"{artifact.spec.name} as {artifact.variant}" for artifact in artifacts]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{name} is named twice; time them one after the other")
    return artifacts, failures


def _unproven(
    candidates: Sequence[Candidate], runs: Mapping[str, Sequence[RunResult]]
) -> list[str]:
    """Candidates whose runs are all INVALID; of an emulated device the answers alone count."""
    failures = []
    for candidate in candidates:
        own = runs[candidate.name]
        name = f"{candidate.name} on {own[0].device.name}" if own else candidate.name
        if own and own[0].emulated:
            if candidate.parity and not candidate.parity.passed:
                failures.append(f"{name}: {candidate.parity.summary}")
        elif own and not any(run.valid for run in own):
            failures.append(f"{name}: no valid run: {'; '.join(own[-1].reasons)}")
    return failures
