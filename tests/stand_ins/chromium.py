"""A headless Chromium that a test steers, by ChromeDriver's HTTP interface (W3C WebDriver).

Debian's packages `chromium` and `chromium-driver`; nothing of a Python package is needed for it.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

# No sandbox: tests run as root in containers. The rest keeps the browser itself off the network.
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


class Chromium:
    """One browser with a profile of its own; skips the test where there is none."""

    def __init__(self) -> None:
        program, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if program is None or driver is None:
            pytest.skip("needs a browser: apt-get install chromium chromium-driver")
        self._profile = tempfile.TemporaryDirectory(prefix="edgepose-chromium-")
        self._driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert self._driver.stdout
            # "ChromeDriver was started successfully on port 12345."
            said = next(line for line in self._driver.stdout if "successfully on port" in line)
            self._base = f"http://127.0.0.1:{said.split()[-1].rstrip('.')}/session"
            options = {
                "args": [*_FLAGS, f"--user-data-dir={self._profile.name}"],
                "binary": program,
            }
            wanted = {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            session = self._ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            self._base += f"/{session}"
            # The page for a new tab makes requests of its own, which are none of the test's.
            self._ask("/url", {"url": "about:blank"})
            self.requests()
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._ask("", method="DELETE")
        finally:
            self._stop()

    def _stop(self) -> None:
        self._driver.terminate()
        self._driver.wait(20)
        if self._driver.stdout:
            self._driver.stdout.close()
        self._profile.cleanup()

    def _ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        request = urllib.request.Request(
            self._base + path,
            data=None if method != "POST" else json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        # No proxy: the driver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=90) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        """Load a file of this machine."""
        self._ask("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self._ask("/execute/sync", {"script": script, "args": list(arguments)})

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._ask("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Set the size of the window in CSS pixels, and the colours that its user prefers."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def press(self, key: str) -> None:
        """A key, as the keyboard sends it: ``Tab``, ``Enter``."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            extra = text if kind == "keyDown" else {}
            self.command(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, **extra,
            )  # fmt: skip

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write what is seen, or the whole page, as PNG."""
        data = self.command("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))

    def console(self) -> list[str]:
        """Messages since the last call, errors and refused requests among them."""
        return [str(entry["message"]) for entry in self._ask("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        entries = self._ask("/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            str(message["params"]["request"]["url"])
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
