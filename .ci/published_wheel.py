"""What a wheel with libraries of others must say of them: a bill of materials, and their licences.

published_wheel.py complete WHEEL  adds to a wheel that auditwheel has repaired the licences of the
                                   libraries that it was given
published_wheel.py check WHEEL     fails if something in a wheel is not accounted for

auditwheel writes the bill of materials, in CycloneDX's format, and knows no licences. A library
without an entry in LICENCES ends both: somebody has to look up on what terms it may be passed on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]

LICENCES: Final = {
    "libgomp": (
        "GPL-3.0-or-later WITH GCC-exception-3.1",
        ("GPL-3.0-or-later.txt", "GCC-exception-3.1.txt"),
    )
}
"""By the name of a library in a wheel: the SPDX expression and its texts in LICENSES/."""

SOURCES: Final = {"libgomp": "https://gcc.gnu.org/git/gcc.git"}
"""Where the source of each library is, as its licence demands."""

OWN: Final = "BSD-3-Clause"

Files = dict[str, bytes]


def read(wheel: Path) -> Files:
    """The files of a wheel by their paths."""
    with zipfile.ZipFile(wheel) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist() if not i.is_dir()}


def dist_info(files: Files) -> str:
    """The folder of the metadata, with a slash."""
    (name,) = (n.removesuffix("METADATA") for n in files if n.endswith(".dist-info/METADATA"))
    return name


def libraries(files: Files) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What LICENCES says of each library in the wheel, by the library's path."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for path in files:
        folder, _, name = path.partition("/")
        if folder.endswith((".libs", ".dylibs")):
            known = name.partition("-")[0].partition(".")[0]
            if known not in LICENCES:
                sys.exit(f"{path} came into the wheel, and LICENCES in {__file__} has no {known!r}")
            found[path] = LICENCES[known]
    return found


def bill(files: Files) -> tuple[str, dict[str, Any]]:
    """Path and content of the bill of materials."""
    paths = [n for n in files if n.startswith(dist_info(files) + "sboms/")]
    if len(paths) != 1:
        sys.exit(f"the wheel must have one bill of materials, found {paths}")
    return paths[0], json.loads(files[paths[0]])


def expression(files: Files) -> str:
    """The licence of a wheel as a whole."""
    return " AND ".join([OWN, *sorted({spdx for spdx, _ in libraries(files).values()})])


def complete(files: Files) -> None:
    """Add what auditwheel does not know; the bill then lists the files and their licences."""
    info = dist_info(files)
    path, content = bill(files)
    for library, (spdx, _) in libraries(files).items():
        name = library.partition("/")[2].partition("-")[0]
        (entry,) = (c for c in content["components"] if c["name"].startswith(name))
        entry["licenses"] = [{"expression": spdx}]
        entry["externalReferences"] = [{"type": "vcs", "url": SOURCES[name]}]
        entry["components"] = [
            {
                "type": "file",
                "name": library,
                "hashes": [
                    {"alg": "SHA-256", "content": hashlib.sha256(files[library]).hexdigest()}
                ],
            }
        ]
    for entry in (content["metadata"]["component"], *content["components"]):
        if entry["name"] == "dropcore":
            entry["licenses"] = [{"license": {"id": OWN}}]
    files[path] = (json.dumps(content, indent=1) + "\n").encode()

    texts = sorted({text for _, names in libraries(files).values() for text in names})
    for text in texts:
        files[f"{info}licenses/LICENSES/{text}"] = (ROOT / "LICENSES" / text).read_bytes()
    metadata = files[info + "METADATA"].decode()
    metadata, changes = re.subn(
        r"(?m)^License-Expression: .*$", f"License-Expression: {expression(files)}", metadata
    )
    if changes != 1:
        sys.exit("the wheel's METADATA has no License-Expression")
    more = "".join(f"License-File: LICENSES/{text}\n" for text in texts)
    files[info + "METADATA"] = metadata.replace(
        "License-File: LICENSE\n", "License-File: LICENSE\n" + more, 1
    ).encode()


def check(files: Files) -> list[str]:
    """What is missing in a wheel, in words."""
    info = dist_info(files)
    _, content = bill(files)
    metadata = files[info + "METADATA"].decode()
    faults = []
    stated = {}
    for entry in content["components"]:
        terms = [choice.get("expression") or choice["license"]["id"]
                 for choice in entry.get("licenses", ())]  # fmt: skip
        if len(terms) != 1:
            faults.append(f"{entry['name']} has no licence in the bill of materials")
        for file in entry.get("components", ()):
            stated[file["name"]] = terms, file["hashes"][0]["content"]
    for path, (spdx, texts) in libraries(files).items():
        if stated.pop(path, None) != ([spdx], hashlib.sha256(files[path]).hexdigest()):
            faults.append(f"{path} is not in the bill of materials with its hash and {spdx}")
        faults += [
            f"{path} is passed on without {text}"
            for text in texts
            if files.get(f"{info}licenses/LICENSES/{text}")
            != (ROOT / "LICENSES" / text).read_bytes()
            or f"\nLicense-File: LICENSES/{text}\n" not in metadata
        ]
    faults += [f"{path} is in the bill of materials and not in the wheel" for path in stated]
    if f"\nLicense-Expression: {expression(files)}\n" not in metadata:
        faults.append(f"METADATA must state the licence {expression(files)}")
    if files.get(info + "licenses/LICENSE") != (ROOT / "LICENSE").read_bytes():
        faults.append("the wheel is passed on without LICENSE")
    if content.get("bomFormat") != "CycloneDX":
        faults.append("the bill of materials is not CycloneDX's")
    return faults


def write(wheel: Path, files: Files) -> None:
    """Replace a wheel by one with these files, at the times of the old one."""
    info = dist_info(files)
    with zipfile.ZipFile(wheel) as archive:
        places = {place.filename: place for place in archive.infolist()}
    record = files.pop(info + "RECORD", None)
    if record is None:
        sys.exit(f"{wheel} has no RECORD")
    lines = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}\n")
    files[info + "RECORD"] = "".join([*lines, f"{info}RECORD,,\n"]).encode()
    like = places[info + "RECORD"]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            old = places.get(path, like)
            place = zipfile.ZipInfo(path, old.date_time)
            place.external_attr = old.external_attr
            place.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(place, data)


def main(task: str, wheel: Path) -> None:
    """What the command does."""
    files = read(wheel)
    if task == "complete":
        complete(files)
        write(wheel, files)
    elif faults := check(files):
        sys.exit("\n".join([f"{wheel.name}:", *faults]))
    else:
        print(f"{wheel.name}: {expression(files)}; {', '.join(libraries(files)) or 'no libraries'}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("complete", "check"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
