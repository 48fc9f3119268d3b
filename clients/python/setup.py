"""Compiles the protocol with the package: nothing generated is kept."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# In a source distribution the protocol lies beside this file, in a checkout at its root.
PROTO = next((p for p in (HERE / "proto", HERE.parent.parent / "proto") if p.is_dir()), None)


class Build(build_py):
    def run(self):
        super().run()
        from grpc_tools import protoc

        if PROTO is None:
            raise FileNotFoundError("expected the folder proto/ of a regimed checkout, found none")
        out = self.build_lib
        files = [str(p.relative_to(PROTO)) for p in sorted(PROTO.rglob("*.proto"))]
        kinds = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "pyi")]
        if protoc.main(["protoc", f"-I{PROTO}", *kinds, *files]) != 0:
            raise RuntimeError("the protocol could not be compiled")
        (Path(out) / "regimed" / "v1" / "__init__.py").write_text(
            '"""The protocol, generated."""\n'
        )


class Source(sdist):
    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        copytree(PROTO, Path(base_dir) / "proto", dirs_exist_ok=True)


setup(cmdclass={"build_py": Build, "sdist": Source})
