"""Describes the package: its version, its requirements, and the .gin files that go with it."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CONFIGS = ROOT / "gin"

TENSORFLOW = ">=2.21,<2.22"
PLOT = ["matplotlib>=3.9", "tensorboard>=2.20"]
EXAMPLES = ["scikit-learn>=1.5"]
SAFETENSORS = ["safetensors>=0.8"]


def version() -> str:
    """Reads ``__version__`` from the source, since importing it is not for a build to do."""
    source = (ROOT / "meshlang" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if found is None:
        raise ValueError('meshlang/__init__.py has no line `__version__ = "..."`')
    return found.group(1)


class BuildWithConfigs(build_py):
    """Copies the checkout's ``gin/`` to ``launch/configs``, where an installed launch finds it.

    The folder cannot be installed under its own name, which belongs to the gin-config package.
    An editable install copies nothing: launch then lies in the checkout, beside ``gin/``.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.rmtree(self._target, ignore_errors=True)  # a renamed file leaves no old twin
            for source, target in self._copies().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        configs = [] if self.editable_mode else [str(path) for path in self._copies().values()]
        return [*super().get_outputs(include_bytecode), *configs]

    @property
    def _target(self) -> Path:
        return Path(self.build_lib) / "launch" / "configs"

    def _copies(self) -> dict[Path, Path]:
        sources = sorted(CONFIGS.rglob("*.gin"))
        return {source: self._target / source.relative_to(CONFIGS) for source in sources}


setup(
    name="meshlang",
    version=version(),
    description="A language for distributed deep learning: named dims, named mesh axes, one layout",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The meshlang authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # Listed by hand: left to itself, find_packages would install `tests` and `benchmarks` too.
    packages=find_packages(include=["meshlang*", "models*", "launch*"]),
    package_data={"meshlang": ["py.typed"], "launch.cluster": ["*.sh", "*.yaml", "*.md"]},
    cmdclass={"build_py": BuildWithConfigs},
    python_requires=">=3.11,<3.14",
    install_requires=[
        f"tensorflow{TENSORFLOW}",
        "numpy>=1.26",
        "absl-py>=2.1",
        "gin-config>=0.5,<0.6",
        "protobuf>=6.31",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources>=6.0",  # tensorflow-datasets 4.9.10 imports it without asking for it
        "tqdm>=4.66",
        "array_record>=0.8",  # tensorflow-datasets asks for it on Linux only
    ],
    extras_require={
        "gpu": [f"tensorflow[and-cuda]{TENSORFLOW}"],
        "plot": PLOT,
        "examples": EXAMPLES,
        "safetensors": SAFETENSORS,
        "test": [
            *PLOT,
            *EXAMPLES,
            *SAFETENSORS,
            "hypothesis>=6.100",
            "pyright[nodejs]==1.1.414",  # exact, as ruff: what passed once passes in a year
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff==0.17.5",
            "setuptools>=70.1",  # tests/test_packaging.py builds without fetching anything
        ],
    },
    entry_points={
        "console_scripts": [
            "meshlang-train = launch.train:main",
            "meshlang-plan = launch.plan:main",
            "meshlang-report = launch.report:main",
            "meshlang-export = launch.export:main",
        ]
    },
)
