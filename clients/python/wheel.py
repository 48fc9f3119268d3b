"""Builds the wheels: the client alone for any machine, and with the binary for Linux on x86-64.

usage: python clients/python/wheel.py OUT [--binary target/release/regimed]
                                         [--no-build-isolation]

The platform wheel is the pure one with the binary among its scripts, tagged for the oldest glibc
that the binary runs on. Needs pip; without isolation, setuptools, wheel and grpcio-tools as well.
"""

import argparse
import base64
import hashlib
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def pure(out: Path, isolated: bool) -> Path:
    """The client alone."""
    here = [] if isolated else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *here]
    subprocess.run([*command, "--wheel-dir", out, HERE], check=True)
    [found] = out.glob("regimed-*-none-any.whl")
    return found


def glibc(binary: Path) -> tuple[int, int]:
    """The oldest glibc that has every symbol that the binary asks for."""
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?\0", binary.read_bytes())
    if not versions:
        raise SystemExit(f"{binary}: expected a program for glibc, found none")
    return max((int(a), int(b)) for a, b in versions)


def hashed(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(content)}"


def with_binary(wheel: Path, binary: Path, out: Path) -> Path:
    """The same with the binary."""
    major, minor = glibc(binary)
    tag = f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"
    name, version = wheel.name.split("-")[:2]
    target = out / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    script = f"{name}-{version}.data/scripts/regimed"
    records = []
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(
        target, "w", zipfile.ZIP_DEFLATED
    ) as new:

        def add(path: str, content: bytes, mode: int) -> None:
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, content)
            records.append(f"{path},{hashed(content)}")

        for path in old.namelist():
            content = old.read(path)
            if path == f"{info}/RECORD":
                continue
            if path == f"{info}/WHEEL":
                text = content.decode().replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
                content = re.sub(r"Tag: .*", f"Tag: {tag}", text).encode()
            add(path, content, 0o644)
        add(script, binary.read_bytes(), 0o755)
        record = f"{info}/RECORD"
        new.writestr(record, "\n".join([*records, f"{record},,", ""]))
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--binary", type=Path, default=HERE.parents[1] / "target/release/regimed")
    parser.add_argument("--no-build-isolation", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wheel = pure(args.out, not args.no_build_isolation)
    print(wheel)
    print(with_binary(wheel, args.binary, args.out))


if __name__ == "__main__":
    main()
