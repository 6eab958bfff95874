"""The README's and the manual's commands, run in a folder that looks like a checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT, shared

cv2 = pytest.importorskip("cv2")
if find_spec("pnnx") is None or not (ROOT / ".venv" / ".ready").exists():
    pytest.skip("needs the environment of `make setup`", allow_module_level=True)

pytestmark = pytest.mark.long

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text("utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
BLOCK = re.compile(r"(?:<!-- test: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)
BLOCKS = {
    name or commands.strip(): commands.strip()
    for page in PAGES
    for name, commands in BLOCK.findall(page)
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to all of the checkout but its build folder, and a photo and models to work on.

    ``programs`` has links to what is on PATH but QEMU: what runs under it takes minutes.
    """
    from calibration.people.synthetic import crop_scene

    # Out of date, it would be built anew from the linked folder, which does not last.
    subprocess.run(["make", "setup"], cwd=ROOT, check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in ("build", ".git"):
            (folder / path.name).symlink_to(path)
    (folder / "programs").mkdir()
    for path in (p for part in reversed(os.get_exec_path()) for p in Path(part).glob("*")):
        if not path.name.startswith("qemu-aarch64"):
            (folder / "programs" / path.name).unlink(missing_ok=True)
            (folder / "programs" / path.name).symlink_to(path)
    cv2.imwrite(str(folder / "PHOTO.jpg"), crop_scene(12, 0, variety=0).image_bgr)
    shutil.copy(ROOT / "converters/zoo/weights/rtmpose-t-demo.onnx", folder / "POSE.onnx")
    return folder


def run(block: str, folder: Path) -> str:
    printed = ""
    for command in BLOCKS[block].splitlines():
        # As one does by hand, once in a shell; `source` is bash's.
        active = "" if command.startswith(("make", "source")) else "source .venv/bin/activate && "
        done = subprocess.run(
            ["bash", "-c", active + command],
            cwd=folder,
            env={**os.environ, "PATH": str(folder / "programs")},
            text=True,
            capture_output=True,
            check=False,
        )
        # A run beside other work is INVALID and says so: no fault of the command.
        disturbed = "edge: INVALID: " in done.stderr and "something else was" in done.stderr
        ended = done.returncode == 0 or (" bench " in command and disturbed)
        assert ended, f"{command}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed


def test_every_block_is_run_by_a_test_here() -> None:
    """`make test` is what runs this file."""
    assert set(BLOCKS) == {"convert", "run", "own", "export", "look", "make test"}
    assert "source .venv/bin/activate" in BLOCKS["run"]
    for name in ("make convert TARGET=android", "make test"):
        goal = name.split()[1]
        assert re.search(rf"^{goal}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_first_success(checkout: Path) -> None:
    printed = run("convert", checkout)
    assert "pass: " in printed
    assert "ARM: not checked (install: apt-get install qemu-user-static" in printed
    artifact = checkout / "build/android-sd865/rtmpose-t-demo-ncnn-fp16"
    assert sorted(p.name for p in artifact.iterdir()) == [
        "artifact.json",
        "rtmpose-t-demo.bin",
        "rtmpose-t-demo.param",
    ]
    detector = checkout / "build/android-sd865/rtmdet-nano-demo-ncnn-fp16"
    assert (detector / "rtmdet-nano-demo.param").is_file()
    assert "1 person" in run("run", checkout)
    assert (checkout / "build/run/PHOTO.jpg").is_file()
    printed = run("look", checkout)
    assert "made with:" in printed
    assert "p99_ms" in printed
    assert "values for convert:" in printed
    # What `make convert` said comes next is what works.
    assert "up to date" in run("convert", checkout)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["android", "x86", "raspberry-pi", "jetson"])
def test_the_first_command_for_every_target(checkout: Path, tmp_path: Path, target: str) -> None:
    """In a checkout where nothing was made before, with empty caches; `--out` is relative there."""
    from targets.profile import load_profile

    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for path in checkout.iterdir():
        if path.name != "build":
            (fresh / path.name).symlink_to(path)
    command = BLOCKS["convert"].replace("TARGET=android", f"TARGET={target}")
    assert target in command
    home = tmp_path / "home"
    done = subprocess.run(
        command,
        shell=True,
        cwd=fresh,
        env={
            **{key: text for key, text in os.environ.items() if not key.startswith("MAKE")},
            "PATH": str(checkout / "programs"),
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "EDGEPOSE_CACHE": str(home / "edgepose"),
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    profile = load_profile(target)
    made = sorted(path.parent.name for path in fresh.glob("build/*/*/artifact.json"))
    models = ("rtmdet-nano-demo", "rtmpose-t-demo")
    assert made == sorted(f"{model}-{variant}" for model in models for variant in profile.variants)
    assert "FAIL" not in done.stdout


def test_ones_own_models(checkout: Path) -> None:
    shutil.copy(shared("data/rtmdet-nano-person/end2end.onnx"), checkout / "DETECTOR.onnx")
    printed = run("own", checkout)
    assert "POSE-ncnn-fp16" in printed
    assert "boxes, IoU" in printed


def test_a_checkpoint(checkout: Path) -> None:
    torch = pytest.importorskip("torch")
    from converters.architectures.rtmpose import RTMPose

    torch.save(RTMPose("t", (256, 192), 26).state_dict(), checkout / "CHECKPOINT.pth")
    printed = run("export", checkout)
    assert "halpe26 -> MODEL.onnx" in printed
    assert (checkout / "MODEL.onnx").is_file()
    assert "rtmo-l-body7" in printed


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
