"""A headless Chromium that opens a page from the disk and is clicked like a user's, through its DevTools pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str | None:
    """The browser's command, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of one browser; ``with Browser(profile) as browser``. `profile` is a folder for the browser's own files."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 1000)) -> None:
        command = find_chromium()
        assert command, "there is no chromium"
        to_browser, ours = os.pipe()
        answers, theirs = os.pipe()
        options = f"--headless --no-sandbox --disable-gpu --remote-debugging-pipe --window-size={size[0]},{size[1]}"
        line = f'exec "$0" {options} --user-data-dir="$1" about:blank 3<&{to_browser} 4>&{theirs}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, command, str(profile)],
            pass_fds=(to_browser, theirs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(theirs)
        self._write, self._read = os.fdopen(ours, "wb", 0), os.fdopen(answers, "rb")
        self._number, self._session, self.problems = 0, None, []
        target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        answer = json.loads(content)
        if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(answer["params"]))
        return answer

    def open(self, page: Path, ready: str = "true") -> float:
        """Open a page; the seconds until the expression `ready` is true in it and a frame has been painted."""
        started = time.perf_counter()
        self._call("Page.navigate", url=page.resolve().as_uri())
        while not self.value(f"document.readyState === 'complete' && Boolean({ready})"):
            assert time.perf_counter() - started < 60, "the page does not get ready"
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        return time.perf_counter() - started

    def value(self, expression: str) -> Any:
        """What a JavaScript expression (or the promise that it gives) is in the page."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """Press and release the left button in the middle of the first element that matches."""
        place = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG."""
        import base64

        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))
