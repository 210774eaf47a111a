"""Take the pictures out of a report, for README and docs.

python benchmarks/report_pictures.py runs/.../report.html docs/pictures
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

PICTURE = re.compile(r'src="data:image/png;base64,([^"]+)"')


def main(report: Path, out_dir: Path) -> None:
    found = PICTURE.findall(report.read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{report}: no pictures in it")
    out_dir.mkdir(parents=True, exist_ok=True)
    for number, encoded in enumerate(found, start=1):
        path = out_dir / f"{report.parent.name}-{number}.png"
        path.write_bytes(base64.b64decode(encoded))
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
