"""An app's example around the header, built for this machine's Java."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.files import cache_folder
from targets.runners.native.ncnn_source import NCNN_VERSION
from tests.conftest import ROOT

__all__ = ["JAVA", "MODELS", "jni_example", "ncnn_flags", "run"]

MODELS = ("rtmdet-nano-demo", "rtmpose-t-demo")
JAVA = """
package edgepose;
class EdgePose {
    static native long open(Object assets, String detector, String pose, int threads);
    static native float[] find(long handle, Object bitmap, float score);
    static native int keypoints(long handle);
    static native void close(long handle);
    static native int held();
    public static void main(String[] words) {
        System.load(words[0]);
        try {
            open(words, "nobody", words[2], 1);
        } catch (IllegalStateException error) {
            System.out.println(error.getMessage());
        }
        long handle = open(words, words[1], words[2], 1);
        System.out.println(keypoints(handle));
        for (float value : find(handle, words, 0.3f)) System.out.print(value + " ");
        System.out.println();
        System.out.println(held());
        close(handle);
        System.out.println(held());
    }
}
"""


def jni_example(assets: Path, folder: Path) -> list[str]:
    """Build an app's example for this machine's Java, in a folder; its command line.

    Two models are its last words. The picture and the assets are named in the environment.
    """
    javac, java, compiler = (shutil.which(name) for name in ("javac", "java", "g++"))
    if not (javac and java and compiler):
        pytest.skip("needs javac, java and g++")
    flags = ncnn_flags("x86_64")[1:]
    jni = Path(javac).resolve().parents[1] / "include"
    (folder / "android").mkdir()
    for name in ("asset_manager", "asset_manager_jni", "bitmap"):
        (folder / f"android/{name}.h").write_text('#include "android_stand_ins.h"\n')
    includes = [folder, ROOT / "tests/stand_ins", assets / "include"]
    library = folder / "libedgepose.so"
    # ncnn's own package for Android asks for -fno-rtti.
    options = ["-fPIC", "-shared", "-fno-rtti", "-Wall", "-Wextra", "-Werror"]
    options += [f"-I{path}" for path in includes]
    options += ["-isystem", str(jni), "-isystem", str(jni / "linux")]
    source = assets / "example/edgepose_jni.cpp"
    run([compiler, "-std=c++17", "-O2", *options, str(source), *flags, "-o", str(library)])
    (folder / "edgepose").mkdir()
    (folder / "edgepose/EdgePose.java").write_text(JAVA)
    run([javac, "-d", str(folder), str(folder / "edgepose/EdgePose.java")])
    return [java, "-cp", str(folder), "edgepose.EdgePose", str(library)]


def run(argv: list[str], *, code: int = 0, **environment: str) -> str:
    """Run a program to its end; what it printed, or, of one that fails, what it said."""
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def ncnn_flags(arch: str) -> list[str]:
    """What compiles and links with the native runner's ncnn; skips where it was not built."""
    name = f"ncnn-{NCNN_VERSION}-{arch}-gcc-*"
    for folder in sorted((cache_folder() / "runner").glob(name)):
        for library in sorted(folder.glob("lib*/libncnn.a")):
            include = ["-isystem", str(folder / "include/ncnn")]
            return ["-DEDGEPOSE_NCNN", "-fopenmp", *include, str(library)]
    pytest.skip(f"no ncnn for {arch} here; `make setup-runner` builds it")
