"""An APK around the assets, made, aligned, signed and verified by Android's own programs."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from targets.app.assets import write_assets
from tests.stand_ins.asset_artifacts import data_offset, make_artifact

MANIFEST = '<manifest package="edgepose.example"><application /></manifest>\n'
PASSWORD = "no-secret"


def run(*argv: object) -> str:
    done = subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_assets_come_back_from_a_signed_apk_stored_and_aligned(tmp_path: Path) -> None:
    for program in ("aapt", "zipalign", "apksigner", "keytool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    # Weights that compression would not leave alone, and lengths that leave the next one crooked.
    artifacts = [
        make_artifact(tmp_path / "in", name="people", weights=b"edge" * 40_001 + b"x"),
        make_artifact(tmp_path / "in", weights=bytes(70_003)),
    ]
    out = tmp_path / "out"
    write_assets(artifacts, out)
    (tmp_path / "AndroidManifest.xml").write_text(MANIFEST)

    def package(name: str, *options: str) -> Path:
        apk = tmp_path / name
        given = ("-M", tmp_path / "AndroidManifest.xml", "-A", out / "assets", "-F", apk)
        run("aapt", "package", "-f", *given, *options)
        return apk

    # What Gradle hands to aapt of the snippet's list.
    gradle = (out / "gradle/edgepose.gradle.kts").read_text()
    listed = re.search(r"noCompress \+= listOf\((.*)\)", gradle)
    assert listed
    options = [word for ending in listed[1].split(", ") for word in ("-0", ending.strip('"'))]
    unaligned = package("unaligned.apk", *options)
    aligned, signed, keys = (tmp_path / name for name in ("aligned.apk", "app.apk", "keys.p12"))
    run("zipalign", "-f", "-p", "4", unaligned, aligned)
    store = ("-keystore", keys, "-storetype", "PKCS12", "-storepass", PASSWORD)
    run("keytool", "-genkeypair", *store, "-alias", "a", "-keyalg", "EC", "-dname", "CN=test")
    key = ("--ks", keys, "--ks-pass", f"pass:{PASSWORD}", "--min-sdk-version", "24")
    run("apksigner", "sign", *key, "--out", signed, aligned)
    verified = run("apksigner", "verify", "--verbose", "--min-sdk-version", "24", signed)
    assert "v2 scheme (APK Signature Scheme v2): true" in verified
    run("zipalign", "-c", "4", signed)

    raw = signed.read_bytes()
    names = [path for path in (out / "assets").rglob("*") if path.is_file()]
    assert len(names) == 7
    with zipfile.ZipFile(signed) as apk:
        for path in names:
            name = path.relative_to(out).as_posix()
            assert apk.getinfo(name).compress_type == zipfile.ZIP_STORED
            at, data = data_offset(signed, name), path.read_bytes()
            assert at % 4 == 0
            assert raw[at : at + len(data)] == data
    # The list is what stores them: without it aapt compresses.
    with zipfile.ZipFile(package("compressed.apk")) as apk:
        weights = apk.getinfo("assets/edgepose/pose/pose.bin")
    assert weights.compress_type == zipfile.ZIP_DEFLATED
