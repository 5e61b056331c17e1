"""The run over all sections, its report as JSON and its table of targets."""

from __future__ import annotations

import gc
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import dropcore

from .setting import SECTIONS, Setting, first_line, torch_on_device


def description(xp: Any) -> dict[str, Any]:
    """The device and the versions."""
    found: dict[str, Any] = {"python": platform.python_version(), "numpy": np.__version__,
                             "dropcore": dropcore.__version__,
                             "isa": dropcore.build_info()["isa"]}  # fmt: skip
    with_errors: dict[str, Callable[[], Any]] = {
        "cupy": lambda: xp.__version__,
        "device": lambda: xp.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        "processors": lambda: xp.cuda.Device().attributes["MultiProcessorCount"],
        "compute_capability": lambda: xp.cuda.Device().compute_capability,
        "cuda_runtime": lambda: xp.cuda.runtime.runtimeGetVersion(),
        "cuda_driver": lambda: xp.cuda.runtime.driverGetVersion(),
        "torch": lambda: torch_on_device().__version__,
    }
    for name, ask in with_errors.items():
        try:
            found[name] = ask()
        except Exception as error:
            found[name] = f"not known: {first_line(error)}"
    return found


def free_memory(setting: Setting) -> None:
    """Free the memory of a section, so that all of it is available to the next one."""
    gc.collect()
    if hasattr(setting.xp, "get_default_memory_pool"):
        setting.xp.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def run(setting: Setting, names: list[str], output: Path | None) -> dict[str, Any]:
    """All sections, and the report as far as it goes after each."""
    report: dict[str, Any] = {
        "machine": description(setting.xp), "sections": {}, "targets": [], "parity": None,
    }  # fmt: skip
    begun = time.monotonic()
    for name in names:
        started = time.monotonic()
        print(f"{name} ...", end=" ", flush=True)
        if started > setting.deadline:
            found: dict[str, Any] = {"skipped": "no time was left"}
        else:
            try:
                found = SECTIONS[name](setting)
            except Exception as error:
                traceback.print_exc()
                found = {"failed": first_line(error)}
            free_memory(setting)
        found["seconds"] = time.monotonic() - started
        report["sections"][name] = found
        report["targets"] += found.get("targets", [])
        if name.startswith("parity"):
            right = found.get("ok", False)
            report["parity"] = right and report["parity"] is not False
        report["seconds"] = time.monotonic() - begun
        print(outcome(found), flush=True)
        if output is not None:
            partial_file = output.with_name(output.name + ".part")
            partial_file.write_text(json.dumps(report, indent=1) + "\n")
            partial_file.replace(output)
    return report


def outcome(found: dict[str, Any]) -> str:
    """A section in a word or two."""
    seconds = f"{found['seconds']:.1f} s"
    for word in ("skipped", "failed"):
        if word in found:
            return f"{word}: {found[word]} ({seconds})"
    if "checks" in found:
        wrong = [name for name, check in found["checks"].items() if not check["ok"]]
        return f"{len(found['checks'])} checks, wrong: {wrong or 'none'} ({seconds})"
    return seconds


def table(report: dict[str, Any]) -> str:
    """The targets in Markdown."""
    machine = report["machine"]
    lines = [
        "", f"{machine['device']}, CuPy {machine['cupy']}, PyTorch {machine['torch']}. "
        f"Parity: {'all right' if report['parity'] else 'NOT all right, or not asked for'}.", "",
        "| | target | measured | |", "|---|---|---|---|",
    ]  # fmt: skip
    for line in report["targets"]:
        found = "not measured" if line["found"] is None else f"{line['found']:.3g}"
        met = {True: "met", False: "missed", None: ""}[line["met"]]
        lines.append(f"| {line['target']} | {line['wanted']} | {found} | {met} |")
    return "\n".join(lines)
