"""What a long batch costs: memory over a thousand phantom studies, rate against processes, the page. -> Docs/batch.md

``--rates-only`` measures nothing but the table of rates, for a machine with nothing else to do, and puts it into the document
in place of the one that is there. What stands above the document's own heading stays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "RVQCSegment"), str(REPOSITORY / "Testing" / "engine")]

from browser import Browser, find_chromium  # noqa: E402
from conftest import write_tiny_bundle  # noqa: E402

from RVQCLib import __version__  # noqa: E402
from RVQCLib.bundle import shipped_bundle  # noqa: E402
from RVQCLib.images import read_image  # noqa: E402
from RVQCLib.phantom import write_phantom  # noqa: E402
from RVQCLib.shifts import SHIFTS, shift_stack  # noqa: E402

HEADING, RATES, MEMORY = "# What a long batch costs", "## Rate against processes", "## Memory over "
GRID = {"spacing": (3.0, 3.0, 24.0), "size": (80, 80)}
KINDS = sorted(SHIFTS)


def write_studies(folder: Path, phantoms: int, copies: int, subset: int, *, all_: bool) -> list[str]:
    """`phantoms` hearts, each once as it is and else under a shift of its own kind, severity and seed: no two files alike.

    Returns the names of `subset` of them, hearts as they are and under all shifts, spread evenly; without `all_` no others
    are written.
    """
    originals = write_phantom(folder / "originals", phantoms, seed=11, layout="acdc", views=("SA",), labelled=0, **GRID)
    made = [(copy, number) for copy in range(copies) for number in range(phantoms)]
    chosen = made[:: len(made) // subset][:subset]
    for copy, number in made if all_ else chosen:
        _write_copy(originals[number], folder / "studies" / _name(copy, number), copy, severity=1 + (number + copy) % 5)
    return [_name(copy, number) for copy, number in chosen]


def _name(copy: int, number: int) -> str:
    return f"heart{number + 1:03d}_{'plain' if not copy else KINDS[(copy - 1) % len(KINDS)]}{copy}"


def _write_copy(original: Path, target: Path, copy: int, severity: int) -> None:
    target.mkdir(parents=True)
    for path in sorted(original.glob("*.nii.gz")):
        header = sitk.ReadImage(str(path))
        stack = read_image(path, view="SA", phase="ED")
        if copy:
            stack = shift_stack(stack, KINDS[(copy - 1) % len(KINDS)], severity, seed=copy)
        image = sitk.GetImageFromArray(stack.pixels)
        image.CopyInformation(header)
        sitk.WriteImage(image, str(target / path.name.replace(original.name, target.name)))
    (target / "Info.cfg").write_text((original / "Info.cfg").read_text(encoding="utf-8"), encoding="utf-8")


def run_batch(folder: Path, out: Path, bundle: Path, jobs: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """Run ``rvqc batch`` as a user does; its time, the processor time of all its processes, and their memory on the way."""
    command = [sys.executable, "-m", "RVQCLib.cli", "batch", folder, "-o", out, "--bundle", bundle, "--jobs", jobs]
    command += ["--device", "cpu", "--json", *(("--only", *only) if only else ())]
    started, first, last = time.monotonic(), None, 0.0
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=REPOSITORY / "RVQCSegment",
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    memory, failed = [], 0
    for event in _events(process):
        if event["event"] == "study":
            first, last = first or time.monotonic(), time.monotonic()
            failed += event["state"] == "failed"
            memory.append((event["done"], *_memory_mb(process.pid)))
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"the batch ended with {status}"
    n = len(memory)
    return {
        "jobs": jobs,
        "studies": n,
        "failed": failed,
        "seconds": time.monotonic() - started,
        "per_minute": 60 * (n - 1) / (last - first),
        "cpu_s_per_study": (usage.ru_utime + usage.ru_stime) / n,
        "memory": memory,
    }


def _events(process: subprocess.Popen) -> Iterator[dict[str, Any]]:
    for line in process.stderr:
        if line.startswith("{"):
            yield json.loads(line)


def _memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process, and of the largest of its children, in MB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return _resident(pid), max((_resident(int(child)) for child in children), default=0.0)


def _resident(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def open_page(page: Path, picture: Path | None = None) -> dict[str, Any] | None:
    """Open a cohort page three times, then filter it by a click and by typing; None where there is no chromium."""
    if find_chromium() is None:
        return None
    ready = "document.documentElement.dataset.ready"
    shown = "document.getElementById('count').textContent"
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile), size=(1280, 1850)) as browser:
        seconds = [browser.open(page, ready) for _ in range(3)]
        if picture is not None:
            browser.screenshot(picture)
        everything = browser.value(shown)
        browser.click("button[data-verdict=trusted]")
        clicked = browser.value(shown)
        browser.click("button[data-verdict=trusted]")
        browser.click("#text")
        browser.type("heart007")
        typed = browser.value(shown)
        assert not browser.problems, browser.problems
    return {"seconds": seconds, "megabytes": page.stat().st_size / 1e6, "said": [everything, clicked, typed]}


def rate_lines(args: argparse.Namespace, rates: list[dict]) -> list[str]:
    """The table of rates, with what it was measured on."""
    return [
        RATES,
        "",
        f"`rvqc batch` with the shipped bundle on {rates[0]['studies']} of the studies, {os.cpu_count()} processor cores, load "
        f"{args.load[0]:.1f} when it began and {os.getloadavg()[0]:.1f} when it ended, {time.strftime('%Y-%m-%d')} "
        f"(`--subset {args.subset} --jobs {' '.join(map(str, args.jobs))}`; alone with `--rates-only`). Studies a minute are "
        "counted from the first study to the last, without the start of the processes; one process uses all cores by itself, of several each has its share of them, so the rate against --jobs 1 says what processes add to threads.",
        "",
        "| --jobs | studies a minute | times --jobs 1 | seconds in all | processor seconds a study |",
        "| ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {r['jobs']} | {r['per_minute']:.1f} | {r['per_minute'] / rates[0]['per_minute']:.2f} | {r['seconds']:.0f} "
            f"| {r['cpu_s_per_study']:.1f} |"
            for r in rates
        ),
        "",
    ]


def with_rates(document: str, lines: list[str]) -> str:
    """The document with another table of rates."""
    before, rest = document.split(RATES, 1)
    return before + "\n".join(lines) + "\n" + rest[rest.index(MEMORY) :]


def report(args: argparse.Namespace, rates: list[dict], long: dict, again: float, page: dict | None) -> str:
    """The document."""
    step = max(1, long["studies"] // 10)
    memory = [entry for entry in long["memory"] if entry[0] % step == 0 or entry[0] == min(20, step)]
    lines = [
        HEADING,
        "",
        f"Made by `python Testing/cohort_benchmark.py --phantoms {args.phantoms} --copies {args.copies} --subset {args.subset}`"
        f" with RVQC {__version__} on {time.strftime('%Y-%m-%d')}.",
        "",
        f"Data: {args.phantoms} phantom hearts (short axis, ED and ES, 80 x 80 pixels of 3 mm, slices of 24 mm, so that a thousand fit into minutes), each once as it "
        f"is and {args.copies - 1} times under one of the image shifts {', '.join(KINDS)} with a severity from 1 to 5: "
        f"{args.phantoms * args.copies} studies, no two files alike. Machine: {os.cpu_count()} processor cores, shared with "
        f"other work (load {args.load[0]:.1f} at the start, {os.getloadavg()[0]:.1f} at the end), so wall times are upper bounds; "
        "processor time is of the batch alone.",
        "",
        *rate_lines(args, rates),
        f"{MEMORY}{long['studies']:,} studies",
        "",
        f"`rvqc batch --jobs {long['jobs']}`. For time's sake with the tests' tiny bundle, whose networks have random weights: "
        "the same path from reading to the page, other networks. So the rows say how memory grows, not how much the shipped "
        "bundle's networks hold.",
        "",
        "| studies done | main process MB | largest worker MB |",
        "| ---: | ---: | ---: |",
        *(f"| {done} | {main:.0f} | {worker:.0f} |" for done, main, worker in memory),
        "",
        f"{long['studies']:,} studies in {long['seconds'] / 60:.1f} minutes, of which start and end take no part in the rate ({long['per_minute']:.0f} a minute), {long['failed']} failed. "
        f"Running the same command again, which keeps all of them after hashing their images and masks, took {again / 60:.1f} minutes.",
        "",
        "## The page",
        "",
    ]
    if page is None:
        return "\n".join([*lines, "There is no chromium on this machine, so the page was not opened.", ""])
    times = ", ".join(f"{s:.2f}" for s in page["seconds"])
    everything, clicked, typed = page["said"]
    return "\n".join(
        [
            *lines,
            f"`cohort.html` of these {long['studies']:,} studies has {page['megabytes']:.1f} MB. Headless Chromium opened it from the disk "
            f"in {times} s (three times, until its first rows were painted). It said “{everything}”; after a real click on "
            f"“Trusted” (random weights earn no trust) “{clicked}”; after that click was taken back and heart007 typed “{typed}”.",
            "",
            "![The page of the cohort](cohort.png)",
            "",
            f"The picture shows the page of the {rates[-1]['studies']} studies with the shipped bundle.",
            "",
        ]
    )


def main() -> None:
    """Run the benchmark and write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phantoms", type=int, default=100)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--subset", type=int, default=20, help="studies of the rate table")
    cores = os.cpu_count() or 1
    doubling = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    parser.add_argument(
        "--jobs", type=int, nargs="+", default=doubling, help="1, 2, 4 … up to the cores of this machine"
    )
    parser.add_argument("--rates-only", action="store_true", help="measure and exchange the table of rates only")
    parser.add_argument("--out", default=str(REPOSITORY / "Docs" / "batch.md"))
    parser.add_argument("--work", help="folder for the studies and results; without it, a temporary one")
    args = parser.parse_args()
    args.load = os.getloadavg()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.work or temporary)
        subset = write_studies(work, args.phantoms, args.copies, args.subset, all_=not args.rates_only)
        rates = [
            run_batch(work / "studies", work / f"rate{jobs}", shipped_bundle(), jobs, subset) for jobs in args.jobs
        ]
        out = Path(args.out)
        document = out.read_text(encoding="utf-8") if out.is_file() else ""
        if args.rates_only:
            out.write_text(with_rates(document, rate_lines(args, rates)), encoding="utf-8")
            return
        tiny = write_tiny_bundle(work / "tiny", views=("SA",))
        long = run_batch(work / "studies", work / "long", tiny, args.jobs[-1])
        again = run_batch(work / "studies", work / "long", tiny, args.jobs[-1])["seconds"]
        page = open_page(work / "long" / "cohort.html")
        open_page(work / f"rate{args.jobs[-1]}" / "cohort.html", out.with_name("cohort.png"))
        head = document[: max(document.find(HEADING), 0)]
        out.write_text(head + report(args, rates, long, again, page), encoding="utf-8")


if __name__ == "__main__":
    main()
